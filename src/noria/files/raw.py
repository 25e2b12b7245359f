"""Unbuffered binary files: each call is a system call or a request to the ring."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any, Self

from noria.files.base import File
from noria.files.engine_base import MAX_RW_COUNT

READLINE_SIZE = 8192  # bytes read at once by readline


class RawFile(File):
    """`noria.open(path, "rb", 0)`: the methods of io.FileIO as coroutines."""

    async def read(self, size: int | None = -1) -> bytes:
        """Read at most `size` bytes; -1: all that is left."""
        self._check_reading()
        if size is None or size < 0:
            return await self.readall()
        async with self._lock:
            self._check()
            if self._pos < 0:
                return await self._read_next(size)
            data = await self._read_at(size, self._pos)
            self._pos += len(data)
            return data

    async def readall(self) -> bytes:
        self._check_reading()
        parts = []
        async with self._lock:
            self._check()
            start = self._pos
            try:
                while data := await self._read_next(max(READLINE_SIZE, self._bytes_left())):
                    parts.append(data)
            except BaseException:
                self._pos = start
                raise
        return b"".join(parts)

    def _bytes_left(self) -> int:
        self._check()
        return min(os.fstat(self._fd).st_size - self._pos, MAX_RW_COUNT)

    async def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            data = await self.read(len(view))
            view[: len(data)] = data
        return len(data)

    async def readline(self, size: int | None = -1) -> bytes:
        if size == 0:
            self._check()
            return b""
        self._check_reading()
        limit = MAX_RW_COUNT if size is None or size < 0 else size
        line = b""
        async with self._lock:
            while len(line) < limit and not line.endswith(b"\n"):
                # Data beyond the line cannot be put back into a pipe.
                if self._pos < 0:
                    data = await self._read_next(1)
                else:
                    data = await self._read_at(min(READLINE_SIZE, limit - len(line)), self._pos)
                    data = data[: data.find(b"\n") + 1] or data
                    self._pos += len(data)
                if not data:
                    break
                line += data
        return line

    async def readlines(self, hint: int | None = -1) -> list[bytes]:
        lines, size = [], 0
        while line := await self.readline():
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint < size:
                break
        return lines

    async def write(self, data: Any) -> int:
        """Write once; returns the count of bytes, which may be fewer than all: write(2)."""
        with memoryview(data).cast("B") as view:
            self._check_writing()
            async with self._lock:
                return await self._write_once(view)

    async def writelines(self, lines: Iterable[Any]) -> None:
        self._check()
        for line in lines:
            with memoryview(line).cast("B") as view:
                self._check_writing()
                async with self._lock:
                    await self._write_all(view)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_seekable()
        async with self._lock:
            self._check()
            if whence == os.SEEK_CUR:
                offset, whence = self._pos + offset, os.SEEK_SET
            self._pos = os.lseek(self._fd, offset, whence)
            return self._pos

    async def tell(self) -> int:
        self._check_seekable()
        return self._pos

    async def truncate(self, size: int | None = None) -> int:
        """Set the file's size, by default to the position."""
        self._check()
        if not self._mode.writable:
            raise io.UnsupportedOperation("truncate: the file is open for reading only")
        async with self._lock:
            self._check()
            size = self._pos if size is None else size
            await self._engine.change_in_thread(os.ftruncate, self._fd, size)
        return size

    def __aiter__(self) -> Self:
        self._check()
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration
