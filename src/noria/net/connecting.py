"""The connecting side: an operation that ends in a stream and a protocol."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria._core.contract import Operation
from noria._core.stream import StreamSet, open_stream

if TYPE_CHECKING:
    import asyncio

    from noria.reactor import Reactor

CONNECT = 1

log = logging.getLogger("noria")


def connect(
    reactor: Reactor,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    address: Any,
    callback: Callable[[Any, OSError | None], object] | None,
) -> Operation:
    """See Reactor.connect."""
    reactor.loop.model.require("connect")
    family, raw = sockaddr(address)
    sock = socket.socket(family, socket.SOCK_STREAM)

    reactor.connecting.add(sock)

    def cancelled() -> None:
        reactor.connecting.discard(sock)
        sock.close()

    def done(result: Any, error: OSError | None) -> None:
        reactor.connecting.discard(sock)
        if error is not None:
            sock.close()
            if callback is None:
                log.error("cannot connect to %s: %s", address, os.strerror(error.errno or 0))
            else:
                callback(None, error)
            return
        try:
            protocol = protocol_factory()
        except BaseException:
            sock.close()
            raise
        stream = open_stream(
            reactor.loop, sock.detach(), protocol, StreamSet(), family != socket.AF_UNIX
        )
        if callback is not None:
            callback(stream, None)

    operation = Operation(CONNECT, sock.fileno(), raw, 0, 0, done)
    operation.cleanup = cancelled
    reactor.loop.submit(operation)
    return operation


def sockaddr(address: Any) -> tuple[int, bytes]:
    """(family, struct sockaddr) of ``(numeric host, port)`` or a Unix path, else ValueError."""
    if isinstance(address, (str, bytes)):
        path = os.fsencode(address)
        if len(path) > 107:
            raise ValueError(f"a Unix socket's path has at most 107 bytes, not {len(path)}")
        return socket.AF_UNIX, struct.pack("=H", socket.AF_UNIX) + path + b"\0"
    host, port = address[:2]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, host)
        except OSError:
            continue
        start = struct.pack("=H", family) + struct.pack("!H", port)
        if family == socket.AF_INET:
            return family, start + packed + bytes(8)
        scope = address[3] if len(address) > 3 else 0
        return family, start + bytes(4) + packed + bytes(ctypes.c_uint32(scope))
    raise ValueError(f"{host!r} is not a numeric address: resolve names with socket.getaddrinfo")
