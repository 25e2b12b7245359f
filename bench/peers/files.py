"""A server that sends one large file to each who connects, by loop.sendfile."""

from __future__ import annotations

import asyncio
import os
from typing import Any

FILE_BYTES = 1 << 30


class Sender(asyncio.Protocol):
    """Sends the file and closes."""

    def __init__(self, descriptor: int, failed: asyncio.Future[None]):
        self.descriptor = descriptor
        self.failed = failed

    def connection_made(self, transport: Any) -> None:
        self.task = asyncio.ensure_future(self.send(transport))

    async def send(self, transport: Any) -> None:
        """Whatever goes wrong is for the server to end with; a peer that leaves is not wrong."""
        loop = asyncio.get_running_loop()
        try:
            with os.fdopen(os.dup(self.descriptor), "rb") as file:
                await loop.sendfile(transport, file, fallback=False)
        except ConnectionError:
            pass
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)
        finally:
            transport.close()


def file_in_memory() -> int:
    """The descriptor of a file of zeros that no disk is asked for."""
    descriptor = os.memfd_create("sendfile")
    os.truncate(descriptor, FILE_BYTES)
    return descriptor
