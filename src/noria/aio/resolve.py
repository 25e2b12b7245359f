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
    info = literal(host, port, family, type, proto, *more)
    if info is not None:
        return [info]
    found: Sequence[AddressInfo] = await loop.getaddrinfo(
        host, port, family=family, type=type, proto=proto, flags=flags
    )
    if not found:
        raise OSError(f"getaddrinfo({host!r}) returned empty list")
    return found


def literal(
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


async def first_success(
    attempts: Sequence[Callable[[], Awaitable[socket.socket]]], delay: float
) -> socket.socket | None:
    """The socket of the first attempt that succeeds, or None (RFC 8305, section 5).

    An attempt starts `delay` seconds after the one before, or at once when one has failed with
    OSError. The others are cancelled then; sockets that these have connected are closed.
    """
    running: set[asyncio.Task[socket.socket]] = set()
    winner: socket.socket | None = None
    remaining = list(reversed(attempts))
    try:
        try:
            while winner is None and (remaining or running):
                if remaining:
                    running.add(asyncio.ensure_future(_start(remaining.pop())))
                done, running = await asyncio.wait(
                    running,
                    timeout=delay if remaining else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    winner = _outcome(task, winner)
        finally:
            await _end(running)
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    return winner


async def _end(tasks: set[asyncio.Task[socket.socket]]) -> None:
    """Cancel the attempts, and close the sockets of those that have succeeded meanwhile."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is None:
            task.result().close()


async def _start(attempt: Callable[[], Awaitable[socket.socket]]) -> socket.socket:
    return await attempt()


def _outcome(
    task: asyncio.Task[socket.socket], winner: socket.socket | None
) -> socket.socket | None:
    error = task.exception()
    try:
        if error is None:
            if winner is None:
                return task.result()
            task.result().close()
        elif not isinstance(error, OSError):
            raise error
        return winner
    finally:
        del error
