"""asyncio's SSLProtocol with a compiled record layer.

asyncio's code performs the handshake and the shutdown, with their timeouts and error reports;
`noria._core.aio.tls` decrypts and encrypts. `noria.aio.tls` imports this module only if all private
names of asyncio that it uses are known (`noria.aio.asyncio_names`).
"""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from noria._core.aio.tls import SSLProtocolBase

if TYPE_CHECKING:
    import ssl

    # private names of asyncio
    class _SSLProtocol(sslproto.SSLProtocol):
        _ssl_buffer: bytearray
        _ssl_buffer_view: memoryview
        _extra: dict[str, Any]
        _incoming: ssl.MemoryBIO
        _app_protocol_get_buffer: Callable[[int], Any]

        def _get_app_transport(self) -> asyncio.Transport: ...
else:
    _SSLProtocol = sslproto.SSLProtocol


class SSLTransport(sslproto._SSLProtocolTransport):
    """The transport of a protocol behind TLS."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ssl_protocol: Any):
        super().__init__(loop, ssl_protocol)
        # Instance attributes hide the class's methods: a write runs no Python code.
        self.write = ssl_protocol.write  # type: ignore[method-assign]
        self.writelines = ssl_protocol.writelines  # type: ignore[method-assign]


class TLSProtocol(SSLProtocolBase, _SSLProtocol):
    """TLS over any transport; over noria's own, a message needs no Python call."""

    def __init__(self, *args: Any, **kwargs: Any):
        _SSLProtocol.__init__(self, *args, **kwargs)
        # asyncio's buffer has 256 KiB and is used only over transports that are not noria's, where
        # get_buffer allocates it again.
        self._ssl_buffer = bytearray()
        self._ssl_buffer_view = memoryview(self._ssl_buffer)
        self.look_up_methods()

    def _get_app_transport(self) -> asyncio.Transport:
        if self._app_transport is None and not self._app_transport_created:
            self._app_transport = SSLTransport(cast("Any", self._loop), self)
            self._app_transport_created = True
        return _SSLProtocol._get_app_transport(self)

    def _set_app_protocol(self, app_protocol: Any) -> None:
        _SSLProtocol._set_app_protocol(self, app_protocol)
        if self._app_protocol_is_buffer:
            # asyncio decrypts into slices of the buffer; slices of a bytearray would be copies.
            get_buffer = self._app_protocol_get_buffer
            self._app_protocol_get_buffer = lambda hint: memoryview(get_buffer(hint))
        self.use_protocol(app_protocol)

    @property
    def app_transport(self) -> asyncio.Transport:
        """The transport of the application's protocol."""
        return self._get_app_transport()

    @property
    def app_transport_made(self) -> asyncio.Transport | None:
        """The transport of the application's protocol; None before the handshake."""
        return self._app_transport

    @property
    def handshake_done(self) -> bool:
        """Whether the handshake has succeeded; stays True after the connection has ended."""
        # asyncio sets it at the end of the handshake.
        return "ssl_object" in self._extra

    def start_paused(self) -> None:
        """Start in the state of a transport that has called the protocol's pause_writing."""
        self.pause_writing()
        self._app_writing_paused = True

    def feed_early_data(self, data: bytes | bytearray) -> None:
        """Feed ciphertext that was received before connection_made."""
        self._incoming.write(data)

    def connection_made(self, transport: Any) -> None:
        """Start the handshake over the plain transport."""
        self.set_plain_transport(transport)
        _SSLProtocol.connection_made(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report the end of the plain transport."""
        transport: Any = self._app_transport
        self.end_handshake()
        _SSLProtocol.connection_lost(self, exc)
        if transport is not None:
            # A reference to the transport must not keep certificates and keys in memory.
            del transport.write, transport.writelines
