"""A server that sends one large file over each connection, with loop.sendfile."""

from __future__ import annotations

import asyncio
import os
from typing import Any

FILE_BYTES = 1 << 30


class SendFile(asyncio.Protocol):
    """Send the file, then close the connection."""

    def __init__(self, descriptor: int, failed: asyncio.Future[None]):
        self.descriptor = descriptor
        self.failed = failed

    def connection_made(self, transport: Any) -> None:
        self.task = asyncio.ensure_future(self.send(transport))

    async def send(self, transport: Any) -> None:
        """Send the file; an exception other than ConnectionError ends the server."""
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


def zero_file() -> int:
    """Return the descriptor of a sparse in-memory file (memfd_create(2)); no disk is read."""
    descriptor = os.memfd_create("sendfile")
    os.truncate(descriptor, FILE_BYTES)
    return descriptor
