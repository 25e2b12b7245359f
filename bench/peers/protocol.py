"""The echo protocol and the start-up settings that the Python benchmark servers share."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

# Large enough that no server refuses a thousand simultaneous clients.
BACKLOG = 4096  # connections


class Echo(asyncio.Protocol):
    """Echoes received data, and pauses reading while the write buffer is full.

    The loop sets TCP_NODELAY: every loop measured here does, as asyncio.
    """

    transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit (RLIMIT_NOFILE, getrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
