"""The protocol that every Python server of the benchmarks runs, and what they share to start."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

BACKLOG = 4096  # for each of them, so that none has to refuse a thousand who come at once


class Echo(asyncio.Protocol):
    """Sends back what it receives, and stops reading while the peer does not take it.

    TCP_NODELAY is left to the loop: each of those measured here sets it, as asyncio does.
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
    """Allow this process as many open files as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
