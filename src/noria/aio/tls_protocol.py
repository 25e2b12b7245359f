"""asyncio's SSLProtocol with a compiled record layer.

The handshake, the shutdown, their timeouts and error reports are asyncio's; decrypting and
encrypting are in `noria._core.aio.tls`. It uses many private names of asyncio: `noria.aio.tls`
imports this module only if all of them are known (`noria.aio.asyncio_names`).
"""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from noria._core.aio.tls import Secure

if TYPE_CHECKING:
    import ssl

    class _Inherited(sslproto.SSLProtocol):  # asyncio's own, which its stubs leave out
        _ssl_buffer: bytearray
        _ssl_buffer_view: memoryview
        _extra: dict[str, Any]
        _incoming: ssl.MemoryBIO
        _app_protocol_get_buffer: Callable[[int], Any]

        def _get_app_transport(self) -> asyncio.Transport: ...
else:
    _Inherited = sslproto.SSLProtocol


class SSLTransport(sslproto._SSLProtocolTransport):
    """The transport that a protocol behind TLS knows."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ssl_protocol: Any):
        super().__init__(loop, ssl_protocol)
        # They stand before the class's methods, so that no Python runs in between.
        self.write = ssl_protocol.write  # type: ignore[method-assign]
        self.writelines = ssl_protocol.writelines  # type: ignore[method-assign]


class TLSProtocol(Secure, _Inherited):
    """TLS over any transport; over noria's own without a Python call for a message."""

    def __init__(self, *args: Any, **kwargs: Any):
        _Inherited.__init__(self, *args, **kwargs)
        # 256 KiB for each connection, of use only over a transport that is not noria's:
        # get_buffer makes it anew there.
        self._ssl_buffer = bytearray()
        self._ssl_buffer_view = memoryview(self._ssl_buffer)
        self.bind()

    def _get_app_transport(self) -> asyncio.Transport:
        if self._app_transport is None and not self._app_transport_created:
            self._app_transport = SSLTransport(cast("Any", self._loop), self)
            self._app_transport_created = True
        return _Inherited._get_app_transport(self)

    def _set_app_protocol(self, app_protocol: Any) -> None:
        _Inherited._set_app_protocol(self, app_protocol)
        if self._app_protocol_is_buffer:
            # asyncio decrypts into slices of the buffer: those of a bytearray would be copies.
            get_buffer = self._app_protocol_get_buffer
            self._app_protocol_get_buffer = lambda hint: memoryview(get_buffer(hint))
        self.adopt(app_protocol)

    @property
    def app_transport(self) -> asyncio.Transport:
        """The transport that the application's protocol has."""
        return self._get_app_transport()

    @property
    def handshake_done(self) -> bool:
        """Whether the handshake succeeded; stays True when the connection ends."""
        return "ssl_object" in self._extra  # asyncio's end of a handshake sets it

    def start_paused(self) -> None:
        """Take over from a transport that has called the protocol's pause_writing."""
        self.pause_writing()
        self._app_writing_paused = True

    def feed_early(self, data: bytes | bytearray) -> None:
        """Take ciphertext that was received before connection_made."""
        self._incoming.write(data)

    def connection_made(self, transport: Any) -> None:
        """The transport below is there: the handshake begins."""
        self.attach(transport)
        _Inherited.connection_made(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The transport below has ended."""
        transport: Any = self._app_transport
        _Inherited.connection_lost(self, exc)
        if transport is not None:
            # Whoever keeps the transport must not keep certificates and keys by it.
            del transport.write, transport.writelines
