"""Name resolution, the order in which addresses are tried, and the race between them."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

# an item of socket.getaddrinfo: (family, type, protocol, canonical name, address)
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
    """Resolve (host, port, ...); an IP address needs no call of getaddrinfo.

    Raises the exceptions of `loop.getaddrinfo`, and OSError if it returns an empty list.
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
    """The address info of an IP address and a port number; None if getaddrinfo is needed."""
    if host is None or type not in _PROTOCOLS or proto not in (0, *_PROTOCOLS.values()):
        return None
    try:
        number = int(port or 0)
        name = host.decode("ascii") if isinstance(host, bytes) else host
        families = (socket.AF_INET, socket.AF_INET6) if family == socket.AF_UNSPEC else (family,)
    except (TypeError, ValueError):
        # a service name or a host name
        return None
    for candidate in families:
        try:
            socket.inet_pton(candidate, name)
        except (OSError, TypeError, ValueError):
            continue
        tail = (flowinfo, scope_id) if candidate == socket.AF_INET6 else ()
        return candidate, type, _PROTOCOLS[type], "", (name, number, *tail)
    return None


def interleave(infos: Iterable[AddressInfo], first_family_count: int) -> list[AddressInfo]:
    """Order the infos with alternating families (RFC 8305, section 4).

    `first_family_count`: the number of addresses of the first family before one of another.
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
    """Return the socket of the first attempt that succeeds (RFC 8305, section 5).

    Each attempt starts `delay` seconds after the previous one, or when that one has failed. After
    the first success the others are cancelled, and their sockets closed. Returns None if each
    attempt fails with OSError; raises another exception only if no attempt succeeds.
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
                    winner = _pick_winner(task, winner, unexpected)
        finally:
            await _cancel_attempts(running)
        if winner is None and unexpected:
            raise unexpected[0]
        return winner
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    finally:
        # Tracebacks of the attempts' exceptions refer to this frame.
        del attempts, remaining, unexpected, newest


async def _start(attempt: Callable[[], Awaitable[socket.socket]]) -> socket.socket:
    try:
        return await attempt()
    finally:
        # The traceback of its exception refers to this frame.
        del attempt


def _pick_winner(
    task: asyncio.Task[socket.socket],
    winner: socket.socket | None,
    unexpected: list[BaseException],
) -> socket.socket | None:
    """The winner after the task has ended; the socket of a second success is closed."""
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


async def _cancel_attempts(tasks: set[asyncio.Task[socket.socket]]) -> None:
    """Cancel the attempts, wait until all have ended, and close their sockets.

    If it is cancelled itself, it raises CancelledError only after all have ended.
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
