"""Creates the transports of the loop's connections and datagram sockets.

Modules that only transports need are imported with the first transport: programs start faster.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from typing import TYPE_CHECKING, Any, cast

from noria.aio.asyncio_base import (
    DATAGRAM_METHODS,
    STREAM_METHODS,
    LoopMethods,
    overrides_methods,
)

if TYPE_CHECKING:
    import ssl

    from noria.aio.tls import TLSProtocol


class TransportFactory(LoopMethods):
    """The loop's methods that create transports."""

    __slots__ = ()

    def make_stream_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        server: Any = None,
        from_caller: bool = False,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        """Create a transport on a connected socket.

        `waiter` is done after connection_made. `from_caller`: the caller of a public method passed
        the socket in, and may close it. The protocol's methods run in `context`, by default a copy
        of the current one.
        """
        from noria._core.aio.connection import connect

        if overrides_methods(sock, STREAM_METHODS):
            return self.make_selector_stream(sock, protocol, waiter, server, context)
        connection = connect(self, sock, protocol, server, from_caller, context)
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
        from_caller: bool = False,
        context: contextvars.Context | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport:
        """Create a TLS transport on a connected socket; `waiter` is done after the handshake."""
        tls_protocol = self.make_tls_protocol(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self.make_stream_transport(
            sock, tls_protocol, server=server, from_caller=from_caller, context=context
        )
        return cast("asyncio.Transport", tls_protocol.app_transport)

    def make_tls_protocol(self, *args: Any, **kwargs: Any) -> TLSProtocol:
        """Create the protocol between a TLS transport and the plain transport below it."""
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
        from_caller: bool,
    ) -> asyncio.DatagramTransport:
        """Create a transport on a datagram socket; `waiter` is done after connection_made."""
        from noria._core.aio.datagrams import DatagramSocket
        from noria.aio.transports import DatagramTransport

        self._ensure_fd_no_transport(sock)
        if overrides_methods(sock, DATAGRAM_METHODS):
            return self.make_selector_datagram(sock, protocol, address, waiter)
        channel = DatagramSocket(
            self, sock, cast("Any", protocol), address, waiter, DatagramTransport, from_caller
        )
        return cast("asyncio.DatagramTransport", channel.transport)
