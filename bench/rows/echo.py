"""Echo servers under the load generator."""

from __future__ import annotations

from functools import partial

from harness import LIMIT, Measurement, Unavailable, load

from rows.row import UVLOOP, Place, Row, Sample, one_shot, server_command, serving


def sample(found: Measurement) -> Sample:
    """Convert a measurement of the load generator; raises Unavailable if it has no messages."""
    if not found["messages"]:
        raise Unavailable("no message came back")
    used, passed = found["user_seconds"] + found["kernel_seconds"], found["seconds"]
    return Sample(
        found["messages_per_second"],
        used / passed,
        found["waiting_seconds"] / passed,
        found["load_waiting_seconds"] / passed,
    )


@one_shot
def tcp(kind: str, connections: int, size: int, loop: str, at: Place, *, depth: int = 1) -> Sample:
    """Measure messages a second over TCP, with `depth` messages in flight per connection."""
    with serving(server_command(loop, kind), at) as (pid, port):
        found = load(
            port,
            at.load,
            pid=pid,
            seconds=at.seconds,
            connections=connections,
            size=size,
            depth=depth,
        )
        return sample(found)


@one_shot
def unix(loop: str, at: Place) -> Sample:
    """Measure the protocol on a Unix socket: 1 KiB messages, 100 connections."""
    path = at.scratch / "socket"
    path.unlink(missing_ok=True)
    words = server_command(loop, "protocol", "--unix", str(path))
    if loop == LIMIT:
        words.append(str(path))
    with serving(words, at, str(path)) as (pid, _):
        found = load(
            0,
            at.load,
            pid=pid,
            unix=str(path),
            seconds=at.seconds,
            connections=100,
            size=1024,
        )
        return sample(found)


def fastest_streams(connections: int, size: int, loop: str, at: Place) -> Sample:
    """Measure noria's own streams on noria, asyncio's on other loops."""
    kind = "own-streams" if loop.partition("-")[0] == "noria" else "streams"
    return tcp(kind, connections, size, loop, at)


STREAMS, LARGE = "streams 1 KiB, 100", "streams 100 kB, 10"
ROWS = (
    Row(
        "Protocol 1 KiB, 100",
        partial(tcp, "protocol", 100, 1024),
        goal=1.15,
        against=UVLOOP,
        limit=True,
    ),
    Row("Protocol 128 B, 1000", partial(tcp, "protocol", 1000, 128), limit=True),
    Row(
        "Protocol 128 B, 50, 16 in flight",
        partial(tcp, "protocol", 50, 128, depth=16),
        limit=True,
    ),
    Row("Protocol 100 kB, 10", partial(tcp, "protocol", 10, 100_000), limit=True),
    Row("BufferedProtocol 1 KiB, 100", partial(tcp, "buffered", 100, 1024)),
    Row("Unix socket 1 KiB, 100", unix, limit=True),
    Row(STREAMS, partial(tcp, "streams", 100, 1024), goal=1.3, against=UVLOOP),
    Row(LARGE, partial(tcp, "streams", 10, 100_000), goal=2.5, against=UVLOOP, limit=True),
    Row("sock_* 1 KiB, 100", partial(tcp, "sock", 100, 1024), goal=2.2, against=UVLOOP),
    # noria's own streams, compared with asyncio's streams on noria.
    Row(
        "noria streams 1 KiB, 100",
        partial(tcp, "own-streams", 100, 1024),
        goal=1.6,
        against=STREAMS,
        own=True,
    ),
    Row(
        "noria streams 100 kB, 10",
        partial(tcp, "own-streams", 10, 100_000),
        goal=1.6,
        against=LARGE,
        own=True,
    ),
    # noria's own streams beside asyncio's streams on the other loops.
    Row(
        "noria or asyncio streams 100 kB, 10",
        partial(fastest_streams, 10, 100_000),
        goal=2.5,
        against=UVLOOP,
    ),
)
