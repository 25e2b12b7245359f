"""The connections of a loop, as another thread sees them, with what the kernel holds for each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container
from typing import Any

from noria._core.aio.core import Core
from noria._core.recorder.sockets import connection_state
from noria.sight.connection_users import ConnectionUsers
from noria.sight.pacer import Pacer
from noria.sight.places import PlaceTuple, innermost_user_place, place_of_callable
from noria.sight.snapshot_tasks import TaskSnapshot

MAX_CONNECTIONS = 20_000


def snapshot_connections(loop: Any, pacer: Pacer, tasks: TaskSnapshot) -> list[dict[str, Any]]:
    """Take the connections of an asyncio loop.

    *tasks* is a snapshot of its tasks, taken just before.
    """
    if not isinstance(loop, Core):
        return []
    found = []
    users = ConnectionUsers(tasks)
    for channel in loop.channels()[:MAX_CONNECTIONS]:
        pacer.pause()
        fd = channel.fd
        state = connection_state(fd) if fd >= 0 else None
        if state is not None:
            found.append(_record(channel, fd, state, tasks, users))
    for record, task in users.found():
        record["user"] = _place_of_task(task)
    return found


def _record(
    channel: Any,
    fd: int,
    state: tuple[str, str, int, int],
    tasks: TaskSnapshot,
    users: ConnectionUsers,
) -> dict[str, Any]:
    peer, local, unread, unsent_in_kernel = state
    tls, protocol, kept, full = _tls(channel.get_protocol())
    record = {
        "fd": fd,
        "peer": peer,
        "local": local,
        "protocol": _class_name(protocol),
        "tls": tls,
        "unread": unread,
        "unsent": channel.get_write_buffer_size() + kept,
        "unsent_in_kernel": unsent_in_kernel,
        "reading_paused": bool(getattr(channel, "reading_paused", False)),
        "writing_paused": bool(getattr(channel, "writing_paused", False)) or full,
        "buffered": _buffered(protocol),
    }
    if isinstance(protocol, asyncio.StreamReaderProtocol):
        record["user"] = _user_of_stream(protocol, tasks)
    elif protocol is not None:
        record["handler"] = _handler(protocol)
        if users.search(protocol, record):
            record["user"] = None
    return record


def _class_name(protocol: Any) -> str:
    if protocol is None:
        return ""
    cls = type(protocol)
    return f"{cls.__module__}.{cls.__qualname__}"


def _tls(protocol: Any) -> tuple[str, Any, int, bool]:
    """Return the version of TLS, or "", the application's protocol, and what TLS keeps unsent.

    That is a number of bytes, and whether they are so many that writing is paused.
    """
    transport = getattr(protocol, "app_transport_made", None)
    if transport is None:
        return "", protocol, 0, False
    try:
        application = transport.get_protocol()
        ssl_object = transport.get_extra_info("ssl_object")
        kept = transport.get_write_buffer_size()
        full = kept > transport.get_write_buffer_limits()[1]
    except AttributeError:  # the connection ends just now
        return "TLS", None, 0, False
    version = "TLS" if ssl_object is None else (ssl_object.version() or "TLS")
    return version, application, kept, full


def _buffered(protocol: Any) -> int:
    """Return the number of bytes that a StreamReader keeps and no task has read."""
    reader = getattr(protocol, "_stream_reader", None)
    buffer = getattr(reader, "_buffer", None)
    return len(buffer) if buffer is not None else 0


def _user_of_stream(protocol: Any, tasks: TaskSnapshot) -> PlaceTuple | None:
    """Return where the task is that has the connection.

    None if no task waits for it: whether one has it is not known.
    """
    reader = getattr(protocol, "_stream_reader", None)
    record = tasks.awaiting.get(id(getattr(reader, "_waiter", None)))
    # Another future may have this address by now.
    if record is not None and record["waiting_for"].startswith("StreamReader"):
        for place in reversed(record["waiting_at"]):
            if place[0].partition(".")[0] not in ("StreamReader", "StreamReaderBase"):
                found: PlaceTuple = place
                return found
    return _place_of_task(tasks.by_task.get(id(getattr(protocol, "_task", None))))


def _place_of_task(record: dict[str, Any] | None) -> PlaceTuple | None:
    if record is None:
        return None
    return innermost_user_place(record["waiting_at"] or [record["coroutine"]])


def _handler(protocol: Any) -> PlaceTuple:
    """Return the protocol's method that gets the data."""
    received = getattr(protocol, "data_received", None) or getattr(protocol, "get_buffer", None)
    return place_of_callable(received if received is not None else type(protocol))


def snapshot_sockets(known: Container[int], pacer: Pacer) -> list[dict[str, Any]]:
    """Take the connected stream sockets of the process whose descriptors are not *known*.

    For loops without asyncio, whose channels no list has. An observer uses the ones that the loop's
    records name.
    """
    found = []
    for name in os.listdir("/proc/self/fd")[:MAX_CONNECTIONS]:
        fd = int(name)
        if fd in known:
            continue
        pacer.pause()
        state = connection_state(fd)
        if state is None:
            continue
        peer, local, unread, unsent_in_kernel = state
        found.append(
            {
                "fd": fd,
                "peer": peer,
                "local": local,
                "unread": unread,
                "unsent_in_kernel": unsent_in_kernel,
            }
        )
    return found
