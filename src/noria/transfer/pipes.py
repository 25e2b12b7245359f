"""Reading a pipe without a thread that would block in it after Ctrl-C."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import BinaryIO

BLOCK_BYTES = 256 * 1024


async def read_blocks(file: BinaryIO) -> AsyncIterator[bytes]:
    """Yield the contents of a file. If it has a descriptor, its buffer is bypassed."""
    try:
        fd = file.fileno()
    except OSError:  # a file in memory
        while block := file.read(BLOCK_BYTES):
            yield block
        return
    while True:
        await _wait_readable(fd)
        block = os.read(fd, BLOCK_BYTES)
        if not block:
            return
        yield block


async def _wait_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # epoll_ctl(2) refuses regular files, which are always readable
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
