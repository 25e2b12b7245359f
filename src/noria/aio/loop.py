"""An asyncio event loop on noria's models.

`Core` has what runs once for a message or a call, compiled. The `...Methods` classes have asyncio's
public methods that make connections and servers. `AsyncioBase` inherits the rest from asyncio.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from noria import models
from noria._core.aio.core import Core
from noria.aio.asyncio_base import (
    ATTRIBUTES,
    DATAGRAM_METHODS,
    STREAM_METHODS,
    AsyncioBase,
    overrides,
)
from noria.aio.connections import ConnectionMethods
from noria.aio.datagrams import DatagramMethods
from noria.aio.sendfile import Pieces, SendfileMethods
from noria.aio.server import ServerMethods
from noria.aio.sockets import SocketMethods

if TYPE_CHECKING:
    import ssl

    from noria._core.aio.acceptor import Acceptor
    from noria.aio.tls import TLSProtocol

Factory = Callable[[], Any]


def _first_transport(connection: Any) -> asyncio.Transport:
    from noria.aio.transports import SocketTransport

    connection.event_loop.make_transport = SocketTransport
    return SocketTransport(connection)


class EventLoop(
    Core,
    SocketMethods,
    ConnectionMethods,
    ServerMethods,
    DatagramMethods,
    SendfileMethods,
    AsyncioBase,
):
    """An asyncio event loop on the given model: see noria.new_event_loop."""

    __slots__ = ("_pieces", "acceptors", *ATTRIBUTES)

    def __init__(self, model: str = "auto"):
        chosen = models.make(model)
        try:
            chosen.require("asyncio")
        except BaseException:
            chosen.close()
            raise
        Core.__init__(self, chosen)
        self.make_transport = _first_transport
        if type(self).time is not EventLoop.time:
            self.use_clock(True)
        self.acceptors: set[Acceptor] = set()  # of the servers that listen
        self._pieces: Pieces | None = None
        AsyncioBase.__init__(self)

    @property
    def model_name(self) -> str:
        """The name of the model that it runs on."""
        return self.model.name

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} model={self.model.name} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    # A replaced `time` is the clock that timers run by, as time-travelling test tools expect.

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "time":
            self.use_clock(True)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name == "time":
            self.use_clock(type(self).time is not EventLoop.time)

    def close(self) -> None:
        """End the loop; nothing may run on it afterwards. Servers' sockets stay open."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        for acceptor in list(self.acceptors):
            acceptor.stop()
        self.acceptors.clear()
        AsyncioBase.close(self)

    # Transports. What they are made of is imported with the first: programs start sooner.

    def make_stream_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        server: Any = None,
        given: bool = False,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        """A transport on a connected socket; `waiter` is done when the protocol has it.

        `given`: the caller of a public method passed the socket in, and may close it. `context`: in
        which the protocol's methods are called, by default a copy of the current one.
        """
        from noria._core.aio.connection import connect

        if overrides(sock, STREAM_METHODS):
            return self.make_selector_stream(sock, protocol, waiter, server, context)
        connection = connect(self, sock, protocol, server, given, context)
        connection.schedule_connection_made(waiter)
        return cast("asyncio.Transport", connection.transport)

    def make_tls_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        server: Any = None,
        given: bool = False,
        context: contextvars.Context | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """A TLS transport on a connected socket; `waiter` is done after the handshake."""
        secure = self.make_tls_protocol(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self.make_stream_transport(sock, secure, server=server, given=given, context=context)
        return cast("asyncio.Transport", secure.app_transport)

    def make_tls_protocol(self, *args: Any, **kwargs: Any) -> TLSProtocol:
        """The protocol between a TLS transport and the plain one below it."""
        # Imported late: a Python may have been built without the ssl module.
        from noria.aio.tls import TLSProtocol

        return TLSProtocol(self, *args, **kwargs)

    def make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any,
        waiter: asyncio.Future[None],
        *,
        given: bool,
    ) -> asyncio.DatagramTransport:
        """A transport on a datagram socket; `waiter` is done when the protocol has it."""
        from noria._core.aio.datagrams import DatagramSocket
        from noria.aio.transports import DatagramTransport

        self._ensure_fd_no_transport(sock)
        if overrides(sock, DATAGRAM_METHODS):
            return self.make_selector_datagram(sock, protocol, address, waiter)
        made = DatagramSocket(
            self, sock, cast("Any", protocol), address, waiter, DatagramTransport, given
        )
        return cast("asyncio.DatagramTransport", made.transport)

    @property
    def pieces(self) -> Pieces:
        """The files that are being sent."""
        if self._pieces is None:
            self._pieces = Pieces(self)
        return self._pieces
