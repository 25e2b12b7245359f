"""Addresses of servers: name resolution and the order in which addresses are tried."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

# What socket.getaddrinfo returns: (family, type, protocol, canonical name, address).
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

_PROTOCOLS: dict[int, int] = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
}


async def resolve(
    loop: asyncio.AbstractEventLoop,
    address: Sequence[Any],
    *,
    family: int = 0,
    type: int = socket.SOCK_STREAM,
    proto: int = 0,
    flags: int = 0,
) -> Sequence[AddressInfo]:
    """The addresses of (host, port, ...), without a thread if the host is an IP address.

    Raises what `loop.getaddrinfo` raises, and OSError if it finds nothing.
    """
    host, port, *more = address
    info = ip_address_info(host, port, family, type, proto, *more)
    if info is not None:
        return [info]
    found: Sequence[AddressInfo] = await loop.getaddrinfo(
        host, port, family=family, type=type, proto=proto, flags=flags
    )
    if not found:
        raise OSError(f"getaddrinfo({host!r}) returned empty list")
    return found


def ip_address_info(
    host: Any,
    port: Any,
    family: int,
    type: int,
    proto: int,
    flowinfo: int = 0,
    scope_id: int = 0,
) -> AddressInfo | None:
    """The only address info of an IP address and a port number; None if getaddrinfo is needed."""
    if host is None or type not in _PROTOCOLS or proto not in (0, *_PROTOCOLS.values()):
        return None
    try:
        number = int(port or 0)
        name = host.decode("ascii") if isinstance(host, bytes) else host
        families = (socket.AF_INET, socket.AF_INET6) if family == socket.AF_UNSPEC else (family,)
    except (TypeError, ValueError):
        return None  # a service or a host by name
    for candidate in families:
        try:
            socket.inet_pton(candidate, name)
        except (OSError, TypeError, ValueError):
            continue
        tail = (flowinfo, scope_id) if candidate == socket.AF_INET6 else ()
        return candidate, type, _PROTOCOLS[type], "", (name, number, *tail)
    return None


def interleave(infos: Iterable[AddressInfo], first_family_count: int) -> list[AddressInfo]:
    """The infos with their families taking turns (RFC 8305, section 4).

    `first_family_count`: how many addresses of the first family come before the first of another.
    """
    families: dict[int, list[AddressInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    groups = list(families.values())
    ahead = max(first_family_count - 1, 0)
    head, groups[0] = groups[0][:ahead], groups[0][ahead:]
    turns = itertools.zip_longest(*groups)
    return head + [info for turn in turns for info in turn if info is not None]


async def staggered_race(
    attempts: Sequence[Callable[[], Awaitable[socket.socket]]], delay: float
) -> socket.socket | None:
    """The socket of the first attempt that succeeds; None if each fails with OSError (RFC 8305, 5).

    An attempt starts `delay` seconds after the one before, or when that one has failed. When one
    has succeeded the others are cancelled, and sockets that these have connected are closed.
    Raises an exception of another kind only if no attempt succeeds.
    """
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[socket.socket]] = set()
    newest: asyncio.Task[socket.socket] | None = None
    winner: socket.socket | None = None
    unexpected: list[BaseException] = []
    remaining = list(reversed(attempts))
    next_start = loop.time()
    try:
        try:
            while winner is None and (remaining or running):
                if remaining and (newest is None or newest.done() or loop.time() >= next_start):
                    newest = asyncio.ensure_future(_start(remaining.pop()))
                    running.add(newest)
                    next_start = loop.time() + delay
                done, running = await asyncio.wait(
                    running,
                    timeout=max(next_start - loop.time(), 0) if remaining else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    winner = _outcome(task, winner, unexpected)
        finally:
            await _end(running)
        if winner is None and unexpected:
            raise unexpected[0]
        return winner
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    finally:
        # Exceptions of the attempts have tracebacks that refer to this frame.
        del attempts, remaining, unexpected, newest


async def _start(attempt: Callable[[], Awaitable[socket.socket]]) -> socket.socket:
    try:
        return await attempt()
    finally:
        del attempt  # the traceback of its exception refers to this frame


def _outcome(
    task: asyncio.Task[socket.socket],
    winner: socket.socket | None,
    unexpected: list[BaseException],
) -> socket.socket | None:
    """The winner so far, after the task has ended."""
    if task.cancelled():
        return winner
    error = task.exception()
    if error is not None:
        if not isinstance(error, OSError):
            unexpected.append(error)
        return winner
    if winner is None:
        return task.result()
    task.result().close()
    return winner


async def _end(tasks: set[asyncio.Task[socket.socket]]) -> None:
    """Cancel the attempts and close the sockets of those that have succeeded meanwhile.

    It waits until all have ended, also if it is cancelled itself.
    """
    for task in tasks:
        task.cancel()
    cancelled = False
    pending = tasks
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError:
            cancelled = True
            pending = {task for task in pending if not task.done()}
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            task.result().close()
    if cancelled:
        raise asyncio.CancelledError
