"""The echo protocol: send back all data received (RFC 862)."""

from __future__ import annotations

import asyncio
from typing import cast


class Echo(asyncio.Protocol):
    """Send back all data received; stop reading while the peer does not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()
