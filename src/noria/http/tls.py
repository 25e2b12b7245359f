"""TLS before HTTP: a connection counts from when it is accepted, and not only once it is secure."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from noria.aio.tls import TLSProtocol
from noria.http.protocol import HTTPProtocol
from noria.http.server_state import ServerState


class TLSProtocolFactory:
    """The protocols of a TLS port, whose connections `front` answers. They need noria's own loop.

    A handshake may take as long as the head of a request.
    """

    def __init__(self, state: ServerState, context: ssl.SSLContext) -> None:
        self.server_state = state
        self.context = context

    def __call__(self) -> HandshakeProtocol:
        """The protocol of a new connection, until its handshake begins."""
        return HandshakeProtocol(self)


class HandshakeProtocol(asyncio.Protocol):
    """A TCP connection: it is counted, and handed to TLS. One too many is ended without a word."""

    def __init__(self, secured: TLSProtocolFactory) -> None:
        self._secured = secured
        self._connection: HTTPProtocol | None = None

    def connection_made(self, transport: Any) -> None:
        state = self._secured.server_state
        self._connection = connection = HTTPProtocol(state)
        if not connection.greet(transport):
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        done.add_done_callback(self._greeted)
        secure = TLSProtocol(
            loop,
            connection,
            self._secured.context,
            done,
            True,
            ssl_handshake_timeout=state.limits.head_timeout,
            ssl_shutdown_timeout=state.limits.linger_timeout,
        )
        transport.set_protocol(secure)
        secure.connection_made(transport)

    def _greeted(self, done: asyncio.Future[None]) -> None:
        """The handshake is over: well, badly (TLS has told of that), or by the client's leaving."""
        if not done.cancelled():
            done.exception()
        if self._connection is not None and self._connection.transport is None:
            self._connection.leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Of one that was refused."""
        if self._connection is not None:
            self._connection.leave()
