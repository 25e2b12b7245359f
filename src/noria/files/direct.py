"""Files past the kernel's cache: O_DIRECT, open(2)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

from noria._core.files.descriptor import Filling
from noria.files.binary import BinaryFile
from noria.files.engine import AT_ONCE, scattered

ALIGNMENT = 4096  # bytes: of offsets, sizes and memory; enough for every device of today
PIECE = 1 << 20  # bytes copied and transferred at once: the loop waits for a copy of so many


class DirectFile(BinaryFile):
    """`noria.open(path, "rb", direct=True)`.

    Reads and writes are widened to aligned blocks in aligned memory. Bytes at the beginning or
    the end of a write that do not fill a block go through the cache, so that they need not be
    read before.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._inline = None  # nothing is in the kernel's cache
        self._spare: mmap.mmap | None = None  # a PIECE of memory that nobody is at

    def _memory(self) -> mmap.mmap:
        """A PIECE of aligned memory. Who has it to himself again makes it the spare one: the kernel
        maps its pages but once."""
        memory, self._spare = self._spare, None
        return mmap.mmap(-1, PIECE) if memory is None else memory

    async def _at_offset(self, size: int, offset: int) -> bytes:
        with self._in_use() as fd:
            return await self._aligned(fd, min(size, AT_ONCE), offset)

    async def _aligned(self, fd: int, size: int, offset: int) -> bytes:
        start = offset - offset % ALIGNMENT
        end = _up(offset + size)
        if not size:
            return b""
        found = Filling(size)
        first = offset - start  # bytes of the first piece that are before `offset`
        memory = self._memory()
        while start < end:
            view = memoryview(memory)[: end - start]
            count = await self._engine.readinto(fd, view, start)
            found.add(view[first:count])
            start += count
            first = 0
            if not count or count % ALIGNMENT:
                break  # the end of the file
        self._spare = memory
        return found.end()

    async def _next(self, size: int) -> bytes:
        data = await self._at_offset(size, self._pos)
        self._pos += len(data)
        return data

    async def read_many(self, ranges: Any) -> list[bytes]:
        self._check_reading()
        if self._unwritten():
            await self.flush()
        return [await self._at_offset(size, offset) for offset, size in ranges]

    async def readv(self, buffers: Sequence[Any], offset: int = -1) -> int:
        self._check_reading()
        async with self._lock:
            self._check()
            await self._settle()
            where = self._pos if offset < 0 else offset
            done = await scattered(buffers, lambda size: self._at_offset(size, where))
            if offset < 0:
                self._pos += done
        return done

    async def writev(self, buffers: Sequence[Any], offset: int = -1) -> int:
        self._check_writing()
        async with self._lock:
            self._check()
            await self._settle()
            data = b"".join(buffers)
            if offset < 0:
                return await self._put(data)
            return await self._write_at(self._fd, data, offset)

    async def _write_and_close(self) -> None:
        """Left to others: what is written has to be aligned."""

    async def _write_at(self, fd: int, data: Any, offset: int) -> int:
        """One write: of whole blocks, or of what is before or behind them."""
        into = offset % ALIGNMENT
        with memoryview(data) as view:
            if into or len(view) < ALIGNMENT:
                part = bytes(view[: ALIGNMENT - into] if into else view)
                return await self._engine.finished(_cached_write, fd, part, offset)
            size = min(len(view) - len(view) % ALIGNMENT, PIECE)
            memory = self._memory()
            memory[:size] = view[:size]
        count = await self._engine.write(fd, memoryview(memory)[:size], offset)
        self._spare = memory
        return count


def _up(number: int) -> int:
    return -(-number // ALIGNMENT) * ALIGNMENT


def _cached_write(fd: int, data: bytes, offset: int) -> int:
    """A write without O_DIRECT. In a descriptor of its own, as the flag is one of the open file
    and others may be reading."""
    cached = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        return os.pwrite(cached, data, offset)
    finally:
        os.close(cached)
