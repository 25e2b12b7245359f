"""Reading what cannot be read again, without a thread that hangs in it after Ctrl-C."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import BinaryIO

from noria.transfer.session import BLOCK


async def blocks(file: BinaryIO) -> AsyncIterator[bytes]:
    """What the file gives until its end. One with a descriptor is read past its own buffer."""
    try:
        fd = file.fileno()
    except OSError:  # it is in memory
        while block := file.read(BLOCK):
            yield block
        return
    while True:
        await readable(fd)
        block = os.read(fd, BLOCK)
        if not block:
            return
        yield block


async def readable(fd: int) -> None:
    """Waits until reading does not; regular files and some devices never make one wait."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # what epoll_ctl(2) says of those
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
