"""Flow control of one connection: pausing its transport, waiting until it is writable."""

from __future__ import annotations

import asyncio
from typing import Any


class FlowControl:
    """Whether the transport reads, and whether it takes more to send."""

    __slots__ = ("_loop", "_transport", "closed", "read_paused", "writable")

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self.read_paused = False
        self.closed = False
        # Pending while the transport's buffer is full, else None.
        self.writable: asyncio.Future[None] | None = None

    def pause_reading(self) -> None:
        self.read_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self.read_paused = False
        self._transport.resume_reading()

    def pause_writing(self) -> None:
        if self.writable is None:
            self.writable = self._loop.create_future()

    def resume_writing(self) -> None:
        self._wake()
        self.writable = None

    def close(self) -> None:
        """Wake the writer: the connection is closed."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)

    async def write(self, data: bytes) -> None:
        """Write once the buffer has room. Raises ConnectionResetError if the client closed."""
        while self.writable is not None and not self.closed:
            await self.writable
        if self.closed or self._transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        self._transport.write(data)
