"""Files that bypass the page cache: O_DIRECT, open(2)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

from noria._core.files.bytes_builder import BytesBuilder
from noria.files.binary import BinaryFile
from noria.files.engine_base import MAX_RW_COUNT, read_into_buffers

ALIGNMENT = 4096  # bytes, of offsets, sizes and memory; enough for all current devices
# Bytes of one transfer. Each is copied in the loop's thread.
MAX_TRANSFER_SIZE = 1 << 20


class DirectFile(BinaryFile):
    """`noria.open(path, "rb", direct=True)`.

    Reads and writes use aligned blocks in aligned memory. Bytes at the beginning or end of a write
    that do not fill a block are written through the page cache: the block need not be read first.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._cached_reader = None
        self._spare_memory: mmap.mmap | None = None

    def _take_memory(self) -> mmap.mmap:
        """MAX_TRANSFER_SIZE bytes of aligned memory.

        The caller makes it the spare one when the transfer has completed, so that the kernel maps
        its pages only once. After a cancellation the kernel or a thread may still use it.
        """
        memory, self._spare_memory = self._spare_memory, None
        return mmap.mmap(-1, MAX_TRANSFER_SIZE) if memory is None else memory

    async def _read_at(self, size: int, offset: int) -> bytes:
        with self._using_fd() as fd:
            return await self._read_aligned(fd, min(size, MAX_RW_COUNT), offset)

    async def _read_aligned(self, fd: int, size: int, offset: int) -> bytes:
        start = offset - offset % ALIGNMENT
        end = _round_up(offset + size)
        if not size:
            return b""
        builder = BytesBuilder(size)
        skip = offset - start  # bytes of the first block before `offset`
        memory = self._take_memory()
        while start < end:
            view = memoryview(memory)[: end - start]
            count = await self._engine.readinto(fd, view, start)
            builder.append(view[skip:count])
            start += count
            skip = 0
            if not count or count % ALIGNMENT:
                break  # the end of the file
        self._spare_memory = memory
        return builder.finish()

    async def _read_next(self, size: int) -> bytes:
        data = await self._read_at(size, self._pos)
        self._pos += len(data)
        return data

    async def read_many(self, ranges: Any) -> list[bytes]:
        self._check_reading()
        if self._unflushed_size():
            await self.flush()
        return [await self._read_at(size, offset) for offset, size in ranges]

    async def readv(self, buffers: Sequence[Any], offset: int = -1) -> int:
        self._check_reading()
        async with self._lock:
            self._check()
            await self._flush_and_rewind()
            where = self._pos if offset < 0 else offset
            done = await read_into_buffers(buffers, lambda size: self._read_at(size, where))
            if offset < 0:
                self._pos += done
        return done

    async def writev(self, buffers: Sequence[Any], offset: int = -1) -> int:
        self._check_writing()
        async with self._lock:
            self._check()
            await self._flush_and_rewind()
            data = b"".join(buffers)
            if offset < 0:
                return await self._write_once(data)
            return await self._write_at(self._fd, data, offset)

    async def _write_and_close(self) -> None:
        """Not used: `close` writes aligned blocks first, then closes."""

    async def _write_at(self, fd: int, data: Any, offset: int) -> int:
        """Write once: whole blocks, or the part of a block before or after them."""
        skip = offset % ALIGNMENT
        with memoryview(data) as view:
            if skip or len(view) < ALIGNMENT:
                part = bytes(view[: ALIGNMENT - skip] if skip else view)
                return await self._engine.change_in_thread(_cached_write, fd, part, offset)
            size = min(len(view) - len(view) % ALIGNMENT, MAX_TRANSFER_SIZE)
            memory = self._take_memory()
            memory[:size] = view[:size]
        count = await self._engine.write(fd, memoryview(memory)[:size], offset)
        self._spare_memory = memory
        return count


def _round_up(number: int) -> int:
    return -(-number // ALIGNMENT) * ALIGNMENT


def _cached_write(fd: int, data: bytes, offset: int) -> int:
    """Write without O_DIRECT, on a new open file: the flag belongs to the open file description, on
    which other operations may be in progress."""
    cached = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        return os.pwrite(cached, data, offset)
    finally:
        os.close(cached)
