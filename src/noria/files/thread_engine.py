"""File I/O in the threads of the loop's executor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from noria.files.engine_base import (
    CURRENT_POSITION,
    MAX_RW_COUNT,
    Engine,
    PathLike,
    read_into_buffers,
)


class ThreadEngine(Engine):
    """Each operation is a call in a thread.

    A thread cannot be cancelled, so a change always completes.
    """

    name = "threads"

    async def open(self, path: PathLike, flags: int, mode: int = 0o666) -> int:
        return await self.open_with(os.open, path, flags, mode)

    async def close_fd(self, fd: int) -> None:
        await self.change_in_thread(os.close, fd)

    async def read(self, fd: int, size: int, offset: int = CURRENT_POSITION) -> bytes:
        if offset == CURRENT_POSITION:
            return await self.run_in_thread(os.read, fd, size)
        return await self.run_in_thread(os.pread, fd, size, offset)

    def start_read(self, fd: int, size: int) -> asyncio.Future[bytes]:
        return self.start_in_thread(os.read, fd, size)

    async def readinto(self, fd: int, buffer: Any, offset: int = CURRENT_POSITION) -> int:
        if offset == CURRENT_POSITION:
            return await self.run_in_thread(os.readv, fd, [buffer])
        return await self.run_in_thread(os.preadv, fd, [buffer], offset)

    async def read_many(self, fd: int, ranges: list[tuple[int, int]]) -> list[bytes]:
        def read() -> list[bytes]:
            return [os.pread(fd, min(size, MAX_RW_COUNT), offset) for offset, size in ranges]

        return await self.run_in_thread(read)

    async def readv(self, fd: int, buffers: Sequence[Any], offset: int = CURRENT_POSITION) -> int:
        # Not into the caller's memory: after a cancellation the thread would still write to it.
        return await read_into_buffers(buffers, lambda size: self.read(fd, size, offset))

    async def write(self, fd: int, data: Any, offset: int = CURRENT_POSITION) -> int:
        if offset == CURRENT_POSITION:
            return await self.change_in_thread(os.write, fd, data)
        return await self.change_in_thread(os.pwrite, fd, data, offset)

    async def writev(self, fd: int, buffers: Sequence[Any], offset: int = CURRENT_POSITION) -> int:
        if offset == CURRENT_POSITION:
            return await self.change_in_thread(os.writev, fd, buffers)
        return await self.change_in_thread(os.pwritev, fd, buffers, offset)

    async def write_and_close(
        self, fd: int, data: Any, offset: int
    ) -> tuple[int, bool, OSError | None]:
        return await self.change_in_thread(_write_and_close, fd, data, offset)

    async def fsync(self, fd: int, data_only: bool = False) -> None:
        await self.change_in_thread(os.fdatasync if data_only else os.fsync, fd)

    async def stat(self, path: str | bytes, follow: bool) -> os.stat_result:
        return await self.run_in_thread(os.stat if follow else os.lstat, path)

    async def unlink(self, path: str | bytes) -> None:
        await self.change_in_thread(os.unlink, path)

    async def rmdir(self, path: str | bytes) -> None:
        await self.change_in_thread(os.rmdir, path)

    async def mkdir(self, path: str | bytes, mode: int) -> None:
        await self.change_in_thread(os.mkdir, path, mode)

    async def rename(self, source: str | bytes, target: str | bytes) -> None:
        await self.change_in_thread(os.rename, source, target)

    def close(self) -> None:
        """Does nothing: the loop ends its own threads."""


def _write_and_close(fd: int, data: Any, offset: int) -> tuple[int, bool, OSError | None]:
    try:
        count = os.write(fd, data) if offset == CURRENT_POSITION else os.pwrite(fd, data, offset)
    except OSError:
        return 0, False, None  # the caller's next write raises it
    if count < len(data):
        return count, False, None
    try:
        os.close(fd)
    except OSError as error:
        return count, True, error
    return count, True, None
