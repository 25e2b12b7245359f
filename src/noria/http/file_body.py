"""Reading a `FileBody` in worker threads, where sendfile(2) cannot send it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from noria.http.messages import FileBody
from noria.http.worker_threads import run_in_thread

READ_BLOCK_SIZE = 256 * 1024  # bytes


async def read_blocks(body: FileBody) -> AsyncIterator[bytes]:
    """The blocks of the file, each read in a worker thread.

    Ends early if the file became shorter.
    """
    offset, end = body.offset, body.offset + body.size
    while offset < end:
        block = await run_in_thread(os.pread, body.fd, min(READ_BLOCK_SIZE, end - offset), offset)
        if not block:
            return
        offset += len(block)
        yield block
