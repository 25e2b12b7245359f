"""The protocol between a plain transport and an application's protocol behind TLS.

`TLSProtocol` is noria's compiled one (`noria.aio.tls_protocol`), or, on a Python whose private
names are unknown to noria, asyncio's SSLProtocol, which works over noria's transports too.
"""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from typing import Any

from noria.aio import asyncio_names

MODULES = ("noria.aio.tls_protocol", "noria._core.aio.tls")  # that need asyncio's private names


class _HandshakeProtocol(asyncio.Protocol):
    """Stands in for the application's protocol until the handshake ends.

    The transport behind TLS is then known without a private name of asyncio.
    """

    def __init__(self, protocol: asyncio.BaseProtocol, call_connection_made: bool):
        self.protocol: Any = protocol
        self.call_connection_made = call_connection_made
        self.transport: Any = None
        self.writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_protocol(self.protocol)
        if self.call_connection_made:
            self.protocol.connection_made(transport)
        elif self.writing_paused:
            self.protocol.resume_writing()


class _LateTransport:
    """A transport whose attributes are those of the one behind TLS, or of the plain one before."""

    def __init__(self, protocol: PlainTLSProtocol):
        self._tls_protocol = protocol

    @property
    def current(self) -> Any:
        return self._tls_protocol.handshake_protocol.transport or self._tls_protocol.plain_transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current, name)

    def close(self) -> None:
        """Close the connection, also one that has not begun."""
        if self.current is not None:
            self.current.close()
        self._tls_protocol.closed = True

    def abort(self) -> None:
        """Close the connection without sending what is buffered, also one that has not begun."""
        if self.current is not None:
            self.current.abort()
        self._tls_protocol.closed = True


class PlainTLSProtocol(sslproto.SSLProtocol):
    """asyncio's SSLProtocol with the public interface of noria's."""

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
        self.handshake_protocol = _HandshakeProtocol(app_protocol, call_connection_made)
        self.plain_transport: Any = None
        self.early = b""
        self.closed = False  # before the connection began
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
        """The transport that the application's protocol has."""
        return self.handshake_protocol.transport or _LateTransport(self)

    @property
    def handshake_done(self) -> bool:
        """Whether the handshake succeeded; stays True when the connection ends."""
        return self.handshake_protocol.transport is not None

    def start_paused(self) -> None:
        """Take over from a transport that has called the protocol's pause_writing."""
        self.pause_writing()
        self.handshake_protocol.writing_paused = True

    def feed_early(self, data: bytes | bytearray) -> None:
        """Take ciphertext that was received before connection_made."""
        self.early += bytes(data)

    def connection_made(self, transport: Any) -> None:
        """Start the handshake over the plain transport."""
        self.plain_transport = transport
        super().connection_made(transport)
        if self.closed:
            transport.abort()
        while self.early and not transport.is_closing():
            buffer = self.get_buffer(len(self.early))
            size = min(len(buffer), len(self.early))
            buffer[:size] = self.early[:size]
            self.early = self.early[size:]
            self.buffer_updated(size)


def _choose() -> Any:
    unknown = asyncio_names.unknown(*MODULES)
    if unknown:
        asyncio_names.warn(unknown)
        return PlainTLSProtocol
    from noria.aio.tls_protocol import TLSProtocol

    return TLSProtocol


TLSProtocol: Any = _choose()


def move_buffered_data(protocol: asyncio.BaseProtocol, tls_protocol: Any) -> None:
    """Move what a stream reader has buffered into the TLS protocol; for the server's side.

    A client may send its ClientHello before the server's start_tls: in the reader it would be read
    as plain text, and the handshake would wait for it until its timeout. asyncio does this from
    Python 3.14 on. At the client nothing is moved: a TLS server sends nothing before the
    ClientHello (RFC 8446, section 2), so what is buffered there is plain text.
    """
    if not any(cls.__module__ == "asyncio.streams" for cls in type(protocol).__mro__):
        return
    reader = getattr(protocol, "_stream_reader", None)
    buffer = getattr(reader, "_buffer", None)
    if isinstance(buffer, bytearray) and buffer:
        tls_protocol.feed_early(buffer)
        buffer.clear()
