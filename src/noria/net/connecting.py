"""Connecting a stream socket to an address, as one operation."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria._core.contract import CONNECT, Operation
from noria._core.listener import open_stream
from noria._core.transport import StreamSet

if TYPE_CHECKING:
    import asyncio

    from noria._core.loop import Loop

UNIX_PATH_MAX = 107  # bytes of sun_path, without the final 0: unix(7)

log = logging.getLogger("noria")


def connect(
    loop: Loop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    address: Any,
    callback: Callable[[Any, OSError | None], object] | None,
    connecting: set[socket.socket],
) -> Operation:
    """Connect a protocol to an address; see Reactor.connect.

    The socket is in the set `connecting` until it is connected, has failed or is cancelled.
    """
    loop.model.require("connect")
    family, raw = sockaddr(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    connecting.add(sock)

    def on_cancelled() -> None:
        connecting.discard(sock)
        sock.close()

    def on_completed(result: Any, error: OSError | None) -> None:
        connecting.discard(sock)
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
        stream = open_stream(loop, sock.detach(), protocol, StreamSet(), family != socket.AF_UNIX)
        if callback is not None:
            callback(stream, None)

    operation = Operation(CONNECT, sock.fileno(), raw, 0, 0, on_completed)
    operation.cleanup = on_cancelled
    loop.submit(operation)
    return operation


def sockaddr(address: Any) -> tuple[int, bytes]:
    """The family and the struct sockaddr of ``(numeric host, port)`` or of a Unix socket's path.

    Raises ValueError for a host name, or a path that is too long.
    """
    if isinstance(address, (str, bytes)):
        path = os.fsencode(address)
        if len(path) > UNIX_PATH_MAX:
            raise ValueError(
                f"a Unix socket's path has at most {UNIX_PATH_MAX} bytes, not {len(path)}"
            )
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
