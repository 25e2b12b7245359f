"""TLS before HTTP: a connection counts from when it is accepted, and not only once it is secure."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from noria.aio.tls import TLSProtocol
from noria.http.protocol import Connection, Front


class Secured:
    """The protocols of a TLS port, whose connections `front` answers. They need noria's own loop.

    A handshake may take as long as the head of a request.
    """

    def __init__(self, front: Front, context: ssl.SSLContext) -> None:
        self.front = front
        self.context = context

    def __call__(self) -> Greeter:
        """The protocol of a new connection, until its handshake begins."""
        return Greeter(self)


class Greeter(asyncio.Protocol):
    """A TCP connection: it is counted, and handed to TLS. One too many is ended without a word."""

    def __init__(self, secured: Secured) -> None:
        self._secured = secured
        self._connection: Connection | None = None

    def connection_made(self, transport: Any) -> None:
        front = self._secured.front
        self._connection = connection = front()
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
            ssl_handshake_timeout=front.limits.header_time,
            ssl_shutdown_timeout=front.limits.linger,
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
