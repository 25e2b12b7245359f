"""Chooses the protocol between a plain transport and an application's protocol behind TLS.

`TLSProtocol` is noria's compiled class (`noria.aio.tls_protocol`), or `PlainTLSProtocol`, which
needs no private name of asyncio, on a Python whose private names differ from those in
`noria.aio.asyncio_names_table`.
"""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

from noria.aio import asyncio_names

# The modules that need asyncio's private names.
MODULES = ("noria.aio.tls_protocol", "noria._core.aio.tls")


# What is recorded of a handshake: TLS in events.pxd.
_BEGINS, _DONE, _FAILED = range(3)


class _HandshakeProtocol(asyncio.Protocol):
    """Replaces the application's protocol until the handshake ends.

    Its connection_made receives the transport behind TLS without a private name of asyncio.
    """

    def __init__(
        self,
        protocol: asyncio.BaseProtocol,
        call_connection_made: bool,
        record_handshake: Callable[[int], None],
    ):
        self.protocol: Any = protocol
        self.call_connection_made = call_connection_made
        self.record_handshake = record_handshake
        self.transport: Any = None
        self.writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.record_handshake(_DONE)
        self.transport.set_protocol(self.protocol)
        if self.call_connection_made:
            self.protocol.connection_made(transport)
        elif self.writing_paused:
            self.protocol.resume_writing()


class _PendingTransport:
    """Delegates to the transport behind TLS, and to the plain transport before the handshake."""

    def __init__(self, protocol: PlainTLSProtocol):
        self._tls_protocol = protocol

    @property
    def current(self) -> Any:
        return self._tls_protocol.handshake_protocol.transport or self._tls_protocol.plain_transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)

    def close(self) -> None:
        """Close the connection, also before connection_made."""
        if self.current is not None:
            self.current.close()
        self._tls_protocol.closed = True

    def abort(self) -> None:
        """Close the connection and discard buffered data, also before connection_made."""
        if self.current is not None:
            self.current.abort()
        self._tls_protocol.closed = True


class PlainTLSProtocol(sslproto.SSLProtocol):
    """asyncio's SSLProtocol with the methods of noria's class."""

    def __init__(
        self,
        loop: Any,
        app_protocol: Any,
        sslcontext: Any,
        waiter: Any,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        **timeouts: Any,
    ):
        self.handshake_protocol = _HandshakeProtocol(
            app_protocol, call_connection_made, self._record_handshake
        )
        self.event_loop = loop
        self.plain_transport: Any = None
        # ciphertext received before connection_made
        self.early_data = b""
        # closed before connection_made
        self.closed = False
        known = asyncio_names.parameters(sslproto.SSLProtocol) or ()
        super().__init__(
            loop,
            self.handshake_protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            **{name: value for name, value in timeouts.items() if name in known},
        )

    @property
    def app_transport(self) -> Any:
        """The transport of the application's protocol."""
        return self.handshake_protocol.transport or _PendingTransport(self)

    @property
    def app_transport_made(self) -> Any:
        """The transport of the application's protocol; None before the handshake."""
        return self.handshake_protocol.transport

    @property
    def handshake_done(self) -> bool:
        """Whether the handshake has succeeded; stays True after the connection has ended."""
        return self.handshake_protocol.transport is not None

    def start_paused(self) -> None:
        """Start in the state of a transport that has called the protocol's pause_writing."""
        self.pause_writing()
        self.handshake_protocol.writing_paused = True

    def feed_early_data(self, data: bytes | bytearray) -> None:
        """Feed ciphertext that was received before connection_made."""
        self.early_data += bytes(data)

    def connection_made(self, transport: Any) -> None:
        """Start the handshake over the plain transport."""
        self.plain_transport = transport
        self._record_handshake(_BEGINS)
        super().connection_made(transport)
        if self.closed:
            transport.abort()
        while self.early_data and not transport.is_closing():
            buffer = self.get_buffer(len(self.early_data))
            size = min(len(buffer), len(self.early_data))
            buffer[:size] = self.early_data[:size]
            self.early_data = self.early_data[size:]
            self.buffer_updated(size)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report the end of the connection to the application's protocol."""
        if not self.handshake_done:
            self._record_handshake(_FAILED)
            if not self.handshake_protocol.call_connection_made:  # it was made before start_tls
                self.event_loop.call_soon(self.handshake_protocol.protocol.connection_lost, exc)
        super().connection_lost(exc)

    def _record_handshake(self, what: int) -> None:
        connection = getattr(self.plain_transport, "_connection", None)
        if connection is not None:
            connection.record_handshake(what)


def _choose() -> Any:
    """Import noria's class if all private names of asyncio that it needs are known."""
    unknown = asyncio_names.unknown(*MODULES)
    if unknown:
        asyncio_names.warn(unknown)
        return PlainTLSProtocol
    from noria.aio.tls_protocol import TLSProtocol

    return TLSProtocol


TLSProtocol: Any = _choose()


def move_buffered_data(protocol: asyncio.BaseProtocol, tls_protocol: Any) -> None:
    """Move the data that a server's stream reader has buffered into the TLS protocol.

    A client may send its ClientHello before the server calls start_tls: left in the reader, it
    would be read as plain text, and the handshake would wait for it until its timeout. asyncio does
    this from Python 3.14 on. It is not for clients: a TLS server sends nothing before it has the
    ClientHello (RFC 8446, section 2), so a client's buffered data is plain text.
    """
    if not any(cls.__module__ == "asyncio.streams" for cls in type(protocol).__mro__):
        return
    reader = getattr(protocol, "_stream_reader", None)
    buffer = getattr(reader, "_buffer", None)
    if isinstance(buffer, bytearray) and buffer:
        tls_protocol.feed_early_data(buffer)
        buffer.clear()
