"""The rows of `noria compare loops`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from noria.compare.loops.alone import operations
from noria.compare.loops.network import idle_memory, load
from noria.compare.loops.row import Row

CONNECTIONS, SIZE = 100, 1024
IDLE_FIRST, IDLE_MORE = 500, 300

ROWS = (
    Row(
        "echo-protocol",
        load("protocol", "echo", connections=CONNECTIONS, size=SIZE),
        group="network",
        title="echo, Protocol",
        about="echoed messages of 1 KiB a second on 100 connections, by an asyncio.Protocol",
    ),
    Row(
        "echo-streams",
        load("streams", "echo", connections=CONNECTIONS, size=SIZE),
        group="network",
        title="echo, streams",
        about="the same by asyncio.start_server: StreamReader and StreamWriter",
    ),
    Row(
        "echo-tls",
        load("tls", "tls", cpu_time=True, connections=CONNECTIONS // 2, size=SIZE),
        unit="/CPU s",
        driven=False,
        group="network",
        title="echo, TLS",
        about="the same over TLS on 50 connections, for each second of the server's CPU time: the "
        "load is written in Python and may be slower than the server",
    ),
    Row(
        "http-uvicorn",
        load("uvicorn", "http", connections=CONNECTIONS),
        group="network",
        title="HTTP, uvicorn",
        about="requests a second on 100 connections, by uvicorn with the smallest ASGI application",
    ),
    Row(
        "call_soon",
        operations("call_soon"),
        driven=False,
        group="scheduling",
        title="call_soon",
        about="callbacks a second, each scheduled by the one before: turns of the loop",
    ),
    Row(
        "call_soon-batch",
        operations("call_soon-batch"),
        driven=False,
        group="scheduling",
        title="call_soon, 100 a turn",
        about="callbacks a second, 100 in a turn of the loop",
    ),
    Row(
        "gather",
        operations("gather"),
        driven=False,
        group="scheduling",
        title="gather",
        about="tasks a second, in asyncio.gather of 100 empty coroutines",
    ),
    Row(
        "sleep0",
        operations("sleep0"),
        driven=False,
        group="scheduling",
        title="sleep(0)",
        about="asyncio.sleep(0) a second in one task",
    ),
    Row(
        "timers-fired",
        operations("timers-fired"),
        driven=False,
        group="timers and threads",
        title="timers fired",
        about="call_later a second, a thousand timers at a time that fire within 0.1 ms",
    ),
    Row(
        "timers-cancelled",
        operations("timers-cancelled"),
        driven=False,
        group="timers and threads",
        title="timers cancelled",
        about="call_later and cancel a second, as timeouts do that never expire",
    ),
    Row(
        "call_soon_threadsafe",
        operations("call_soon_threadsafe", threads=True),
        driven=False,
        group="timers and threads",
        title="call_soon_threadsafe",
        about="calls a second from another thread",
    ),
    Row(
        "run_in_executor",
        operations("run_in_executor", threads=True),
        driven=False,
        group="timers and threads",
        title="run_in_executor",
        about="calls a second of an empty function in the default executor, one after another",
    ),
    Row(
        "files-read",
        operations("files-read", threads=True),
        driven=False,
        group="files and memory",
        title="read files",
        about="files of 16 KiB opened, read and closed a second, 8 at once, by what each loop's "
        "package has: noria.open, blazio.open, and for the others asyncio.to_thread",
    ),
    Row(
        "memory-idle",
        idle_memory(IDLE_FIRST, IDLE_MORE),
        unit="B",
        less=True,
        driven=False,
        interleaved=False,
        group="files and memory",
        title="idle connection",
        about="resident bytes of the server for each idle connection with an asyncio.Protocol",
    ),
)


def select(patterns: Iterable[str], known: Sequence[Row] = ROWS) -> list[Row]:
    """Return the rows whose names match one of the patterns (fnmatch), in the order of `known`.

    Raises ValueError for a pattern that matches none; the message lists the names.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matching = {row.name for row in known if fnmatch.fnmatchcase(row.name, pattern)}
        if not matching:
            names = ", ".join(row.name for row in known)
            raise ValueError(f"no row matches {pattern!r}. Choose from: {names}.")
        chosen |= matching
    return [row for row in known if row.name in chosen]
