"""A protocol that answers each HTTP request with the same response."""

from __future__ import annotations

import asyncio
from typing import Any

BODY = b"Hello, world!\n"
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY


class Reply(asyncio.Protocol):
    """Responds to data that ends like a request; the load sends each request in one piece."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(REPLY)
