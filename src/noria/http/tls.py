"""HTTP over TLS: a connection counts from the start of its handshake."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from noria.aio.tls import TLSProtocol
from noria.http.protocol import HTTPProtocol
from noria.http.server_state import ServerState
from noria.http.worker_threads import consume_exception


class TLSProtocolFactory:
    """Returns the protocol of a new TCP connection when called. Requires noria's event loop.

    A handshake may take as long as the head of a request.
    """

    def __init__(self, state: ServerState, context: ssl.SSLContext) -> None:
        self.server_state = state
        self.context = context

    def __call__(self) -> HandshakeProtocol:
        return HandshakeProtocol(self.server_state, self.context)


class HandshakeProtocol(asyncio.Protocol):
    """Counts a TCP connection and passes its transport to TLS.

    Above a limit the connection is aborted: a response would require the handshake.
    """

    def __init__(self, state: ServerState, context: ssl.SSLContext) -> None:
        self._state = state
        self._context = context
        self._protocol: HTTPProtocol | None = None

    def connection_made(self, transport: Any) -> None:
        limits = self._state.limits
        self._protocol = protocol = HTTPProtocol(self._state)
        if not protocol.handshake_started(transport):
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        handshake: asyncio.Future[None] = loop.create_future()
        handshake.add_done_callback(self._on_handshake_end)
        tls = TLSProtocol(
            loop,
            protocol,
            self._context,
            handshake,
            True,
            ssl_handshake_timeout=limits.head_timeout,
            ssl_shutdown_timeout=limits.linger_timeout,
        )
        transport.set_protocol(tls)
        tls.connection_made(transport)

    def _on_handshake_end(self, handshake: asyncio.Future[None]) -> None:
        """The handshake succeeded, failed (TLS has reported that), or the client closed."""
        consume_exception(handshake)
        if self._protocol is not None and self._protocol.transport is None:
            self._protocol.forget()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called only if the connection was refused: else TLS is the transport's protocol."""
        if self._protocol is not None:
            self._protocol.forget()
