"""`create_datagram_endpoint`."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from noria.aio.server import remove_stale_socket
from noria.aio.transport_factory import TransportFactory
from noria.net.addresses import resolve
from noria.net.socket_options import share_port

Factory = Callable[[], asyncio.BaseProtocol]

# (family, protocol, address to bind, address to connect to) of a socket to try
Candidate = tuple[int, int, Any, Any]

log = logging.getLogger("asyncio")


class DatagramMethods(TransportFactory):
    """`create_datagram_endpoint`."""

    __slots__ = ()

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Factory,
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: Any = None,
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """Open a datagram socket. As AbstractEventLoop.create_datagram_endpoint.

        Raises OSError if it cannot be bound or connected; TypeError and ValueError for invalid
        combinations of arguments.
        """
        from_caller = sock is not None
        remote = None
        if sock is not None:
            if sock.type == socket.SOCK_STREAM:
                kind = "datagram socket" if sys.version_info >= (3, 13) else "UDP Socket"
                raise ValueError(f"A {kind} was expected, got {sock!r}")
            options = {
                "local_addr": local_addr,
                "remote_addr": remote_addr,
                "family": family,
                "proto": proto,
                "flags": flags,
                "reuse_port": reuse_port,
                "allow_broadcast": allow_broadcast,
            }
            problems = ", ".join(f"{name}={value}" for name, value in options.items() if value)
            if problems:
                raise ValueError(
                    f"socket modifier keyword arguments can not be used when sock is specified. "
                    f"({problems})"
                )
            sock.setblocking(False)
        else:
            candidates = await _candidates(self, local_addr, remote_addr, family, proto, flags)
            sock, remote = await _open(self, candidates, reuse_port, allow_broadcast)
        try:
            protocol = protocol_factory()
            waiter = self.create_future()
            transport = self.make_datagram_transport(
                sock, protocol, remote, waiter, from_caller=from_caller
            )
        except BaseException:
            if not from_caller:
                sock.close()
            raise
        if self.get_debug():
            level = logging.INFO if local_addr else logging.DEBUG
            local = f"local_addr={local_addr!r} " if local_addr else ""
            text = "Datagram endpoint %sremote_addr=%r created: (%r, %r)"
            log.log(level, text, local, remote_addr, transport, protocol)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol


async def _candidates(
    loop: asyncio.AbstractEventLoop, local: Any, remote: Any, family: int, proto: int, flags: int
) -> list[Candidate]:
    """The sockets to try, in order. Raises TypeError and ValueError for invalid addresses."""
    if not (local or remote):
        if family == 0:
            raise ValueError("unexpected address family")
        return [(family, proto, None, None)]
    if family == socket.AF_UNIX:
        for address in (local, remote):
            if address is not None and not isinstance(address, str):
                raise TypeError("string is expected")
        if local:
            remove_stale_socket(local)
        return [(family, proto, local, remote)]
    # (family, protocol) -> {0: local address, 1: remote address}
    found: dict[tuple[int, int], dict[int, Any]] = {}
    for end, address in enumerate((local, remote)):
        if address is None:
            continue
        if not (isinstance(address, tuple) and len(address) == 2):
            raise TypeError("2-tuple is expected")
        infos = await resolve(
            loop, address, family=family, type=socket.SOCK_DGRAM, proto=proto, flags=flags
        )
        for one_family, _, one_proto, _, resolved in infos:
            found.setdefault((one_family, one_proto), {})[end] = resolved
    candidates = [
        (*kind, ends.get(0), ends.get(1))
        for kind, ends in found.items()
        if (0 in ends or not local) and (1 in ends or not remote)
    ]
    if not candidates:
        raise ValueError("can not get address information")
    return candidates


async def _open(
    loop: asyncio.AbstractEventLoop,
    candidates: Sequence[Candidate],
    reuse_port: bool | None,
    allow_broadcast: bool | None,
) -> tuple[socket.socket, Any]:
    """Open the first candidate that works; return its socket and remote address.

    Raises the first candidate's OSError if none works.
    """
    first_error: OSError | None = None
    try:
        for family, proto, local, remote in candidates:
            sock = None
            try:
                sock = socket.socket(family, socket.SOCK_DGRAM, proto)
                if reuse_port:
                    share_port(sock)
                if allow_broadcast:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.setblocking(False)
                if local:
                    sock.bind(local)
                # A socket that is connected to a broadcast address would receive no replies.
                if remote and not allow_broadcast:
                    await loop.sock_connect(sock, remote)
                return sock, remote or None
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, OSError):
                    raise
                first_error = first_error or error
        assert first_error is not None
        raise first_error
    finally:
        # Its traceback refers to this frame.
        first_error = None
