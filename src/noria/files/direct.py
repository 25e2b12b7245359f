"""Files past the kernel's cache: O_DIRECT, open(2)."""

from __future__ import annotations

import mmap
import os
from typing import Any

from noria.files.binary import BinaryFile
from noria.files.engine import AT_ONCE

ALIGNMENT = 4096  # bytes: of offsets, sizes and memory; enough for every device of today


class DirectFile(BinaryFile):
    """`noria.open(path, "rb", direct=True)`.

    Reads and writes are widened to aligned blocks in aligned memory. Bytes at the beginning or
    the end of a write that do not fill a block go through the cache, so that they need not be
    read before.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._inline = None  # nothing is in the kernel's cache

    async def _at_offset(self, size: int, offset: int) -> bytes:
        size = min(size, AT_ONCE - 2 * ALIGNMENT)
        start = offset - offset % ALIGNMENT
        end = _up(offset + size)
        if not size:
            return b""
        with mmap.mmap(-1, end - start) as memory:
            got = 0
            while got < end - start:
                with memoryview(memory)[got:] as view:
                    count = await self._engine.readinto(self._fd, view, start + got)
                got += count
                if not count or count % ALIGNMENT:
                    break  # the end of the file
            first = offset - start
            return memory[first : max(min(first + size, got), first)]

    async def _next(self, size: int) -> bytes:
        data = await self._at_offset(size, self._pos)
        self._pos += len(data)
        return data

    async def read_many(self, ranges: Any) -> list[bytes]:
        self._check_reading()
        if self._unwritten():
            await self.flush()
        return [await self._at_offset(size, offset) for offset, size in ranges]

    async def _put(self, data: Any) -> int:
        with memoryview(data).cast("B") as view:
            count = await self._aligned(view, self._pos)
        self._pos += count
        return count

    async def _write_all(self, view: Any, offset: int | None = None) -> int:
        if offset is None:
            return await super()._write_all(view)
        done = 0
        while done < len(view):
            done += await self._aligned(view[done:], offset + done)
        return done

    async def _aligned(self, view: Any, offset: int) -> int:
        """One write: of whole blocks, or of what is before or behind them."""
        into = offset % ALIGNMENT
        if into or len(view) < ALIGNMENT:
            part = view[: ALIGNMENT - into] if into else view
            return await self._engine.finished(_cached_write, self._fd, bytes(part), offset)
        size = len(view) - len(view) % ALIGNMENT
        memory = mmap.mmap(-1, size)  # given back when nobody has it any more
        memory[:] = view[:size]
        return await self._engine.write(self._fd, memory, offset)


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
