"""Buffered binary files: whole blocks are read ahead, and small writes are gathered."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import Iterable
from typing import Any, Self

from noria.files.base import File
from noria.files.engine import AT_ONCE, Engine
from noria.files.modes import Mode

BLOCK = 64 * 1024  # bytes, where the user names no size


class BinaryFile(File):
    """`noria.open(path, "rb")`: the methods of io.BufferedReader, BufferedWriter and
    BufferedRandom as coroutines.

    Calls that find their bytes in the buffer do not wait. At any moment the file either has bytes
    read ahead (`_buf` from `_at` on) or bytes to write (`_pending`), never both; `_pos` is where
    the first end and the others begin.
    """

    _pending: bytearray

    def __init__(
        self, fd: int, name: Any, mode: Mode, closefd: bool, engine: Engine, block: int = BLOCK
    ) -> None:
        self._block = block
        self._buf = b""
        self._at = 0
        self._pending = bytearray()
        super().__init__(fd, name, mode, closefd, engine)

    @property
    def raw(self) -> File:
        """The file itself: nothing is between it and its descriptor."""
        return self

    # Reading.

    async def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, fewer only at the end; all that is left with -1."""
        if size is None:
            size = -1
        end = self._at + size
        if size > 0 and end <= len(self._buf) and not self._lock.locked():
            data = self._buf[self._at : end]
            self._at = end
            return data
        async with self._lock:
            return await self._read(size)

    async def _read(self, size: int) -> bytes:
        await self._reading()
        if size < -1:
            raise ValueError("read length must be non-negative or -1")
        if size < 0:
            while await self._more(self._left() or self._block):
                pass
            return self._cut(len(self._buf))
        while (missing := size - self._unread()) > 0 and await self._more(missing):
            pass
        return self._cut(self._at + size)

    async def read1(self, size: int = -1) -> bytes:
        """What is there, `size` bytes at most, with one read of the kernel at most."""
        async with self._lock:
            return await self._read1(size)

    async def _read1(self, size: int) -> bytes:
        await self._reading()
        if size < 0:
            size = self._block
        if size and not self._unread():
            await self._more(1)
        return self._cut(self._at + size)

    async def peek(self, size: int = 0) -> bytes:
        """What is read ahead, without moving; a block is read where there is nothing."""
        async with self._lock:
            await self._reading()
            if not self._unread():
                await self._more(1)
            return self._buf[self._at :]

    async def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            data = await self.read(len(view))
            view[: len(data)] = data
        return len(data)

    async def readinto1(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view:
            data = await self.read1(len(view))
            view[: len(data)] = data
        return len(data)

    async def readline(self, size: int | None = -1) -> bytes:
        """Up to and with the next newline, `size` bytes at most."""
        end = self._buf.find(b"\n", self._at) + 1
        if end and (size is None or size < 0) and not self._lock.locked():
            line = self._buf[self._at : end]
            self._at = end
            return line
        if size == 0:
            self._check()
            return b""
        async with self._lock:
            return await self._readline(-1 if size is None else size)

    async def _readline(self, size: int) -> bytes:
        await self._reading()
        seen = 0
        while True:
            limit = len(self._buf) if size < 0 else min(self._at + size, len(self._buf))
            end = self._buf.find(b"\n", self._at + seen, limit) + 1
            if end:
                return self._cut(end)
            if 0 <= size <= self._unread():
                return self._cut(self._at + size)
            seen = self._unread()
            if not await self._more(1):
                return self._cut(len(self._buf))

    async def readlines(self, hint: int | None = -1) -> list[bytes]:
        if hint is None or hint <= 0:
            return await self._lines()
        lines, size = [], 0
        while size <= hint and (line := await self.readline()):
            lines.append(line)
            size += len(line)
        return lines

    async def _lines(self) -> list[bytes]:
        # bytes.splitlines also cuts at a carriage return, which the built-in files do not.
        parts = (await self.read()).split(b"\n")
        last = parts.pop()
        lines = [part + b"\n" for part in parts]
        return [*lines, last] if last else lines

    def __aiter__(self) -> Self:
        self._check()
        return self

    async def __anext__(self) -> bytes:
        end = self._buf.find(b"\n", self._at) + 1
        if end and not self._lock.locked():
            line = self._buf[self._at : end]
            self._at = end
            return line
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration

    async def _reading(self) -> None:
        self._check_reading()
        if self._pending:
            await self._flush()

    async def _more(self, size: int) -> bool:
        """Reads ahead, behind what is there already: `size` bytes or a block, and more the longer
        a line is. False at the end of the file."""
        unread = self._unread()
        data = await self._next(max(size, self._block, unread))
        if data:
            self._buf = self._buf[self._at :] + data if unread else data
            self._at = 0
        return bool(data)

    def _cut(self, end: int) -> bytes:
        data = self._buf[self._at : end]
        self._at += len(data)
        if self._at == len(self._buf):
            self._buf, self._at = b"", 0
        return data

    def _give_back(self, data: bytes) -> None:
        """The last bytes that were read, to be read again."""
        if data:
            self._buf, self._at = data + self._buf[self._at :], 0

    def _unread(self) -> int:
        return len(self._buf) - self._at

    def _left(self) -> int:
        """Bytes of the file that are not read ahead, and one, which finds the end."""
        return min(max(os.fstat(self._fd).st_size - self._pos + 1, 0), AT_ONCE)

    # Writing.

    async def write(self, data: Any) -> int:
        """The count of bytes, which is all of them. Cancelled, the CancelledError has as `result`
        how many of them the file has taken."""
        if isinstance(data, bytes):
            return await self._written(data)
        self._check_writing()
        with memoryview(data).cast("B") as view:
            return await self._written(view)

    async def _written(self, data: Any) -> int:
        if (
            self._fd >= 0
            and self._mode.writable
            and not self._buf
            and len(self._pending) + len(data) <= self._block
            and not self._lock.locked()
        ):
            self._pending += data
            return len(data)
        try:
            async with self._lock:
                return await self._write(data)
        except asyncio.CancelledError as error:
            told: Any = error
            told.result = getattr(error, "taken", 0)
            raise

    async def _write(self, data: Any) -> int:
        self._check_writing()
        self._forget()
        if len(self._pending) + len(data) > self._block:
            await self._flush()
        if len(data) <= self._block:
            self._pending += data
            return len(data)
        try:
            return await self._write_all(data)
        except asyncio.CancelledError as error:
            told: Any = error
            told.taken = told.result
            raise

    async def writelines(self, lines: Iterable[Any]) -> None:
        self._check()
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Hands what is gathered to the kernel. What it does not take stays here."""
        self._check()
        if self._pending or self._lock.locked():
            async with self._lock:
                await self._flush()

    async def _flush(self) -> None:
        while self._pending:
            try:
                count = await self._put(self._pending)  # nobody changes it: the lock is held
            except asyncio.CancelledError as error:
                del self._pending[: getattr(error, "result", None) or 0]
                raise
            del self._pending[:count]

    def _forget(self) -> None:
        """The file stands where its reader is, and nothing is read ahead."""
        if self._pos >= 0 and self._buf:
            self._pos -= self._unread()
            self._buf, self._at = b"", 0

    async def _settle(self) -> None:
        await self._flush()
        self._forget()

    def _abandoned(self) -> None:
        rest = memoryview(self._pending)
        while rest:
            if self._append or self._pos < 0:
                count = os.write(self._fd, rest)
            else:
                count = os.pwrite(self._fd, rest, self._pos)
                self._pos += count
            rest = rest[count:]

    # The position.

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_seekable()
        async with self._lock:
            return await self._seek(offset, whence)

    async def _seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_seekable()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            raise ValueError(f"invalid whence value: {whence}")
        await self._flush()
        if whence == os.SEEK_CUR:
            offset, whence = self._tell() + offset, os.SEEK_SET
        start = self._pos - len(self._buf)
        if whence == os.SEEK_SET and self._buf and start <= offset <= self._pos:
            self._at = offset - start  # still read ahead
            return offset
        position = os.lseek(self._fd, offset, whence)
        self._buf, self._at = b"", 0
        self._pos = position
        return position

    async def tell(self) -> int:
        self._check_seekable()
        return self._tell()

    def _tell(self) -> int:
        return self._pos - self._unread() + len(self._pending)

    async def truncate(self, size: int | None = None) -> int:
        """Cut or lengthened to `size` bytes, or to where the file stands, which stays."""
        self._check()
        if not self._mode.writable:
            raise io.UnsupportedOperation("truncate: the file is open for reading only")
        async with self._lock:
            self._check()
            await self._settle()
            size = self._tell() if size is None else size
            await self._engine.finished(os.ftruncate, self._fd, size)
        return size

    async def close(self) -> None:
        """Flushes and closes. The descriptor is closed even where flushing fails."""
        if (
            0 < len(self._pending) <= AT_ONCE
            and self._fd >= 0
            and self._pos >= 0  # a pipe may take nothing for long: giving up must be possible
            and self._closefd
            and not self._users
            and not self._lock.locked()
        ):
            try:
                await self._write_and_close()
            finally:
                if self._fd >= 0:  # not all of it was written: this says why, or writes the rest
                    await super().close()
            return
        if self._fd < 0 and self._lock.locked():
            async with self._lock:  # somebody else is closing it
                return
        await super().close()

    async def _write_and_close(self) -> None:
        """Both in one request. Where that was not all, the file is open as it was before."""
        async with self._lock:
            fd, self._fd = self._fd, -1
            count, closed, failed = 0, False, None
            size = len(self._pending)
            try:
                offset = -1 if self._append else self._pos
                done = await self._engine.write_and_close(fd, self._pending, offset)
                count, closed, failed = done
            except asyncio.CancelledError as error:
                told: Any = error
                count, closed, _ = getattr(error, "result", None) or (0, False, None)
                told.result = count
                raise
            except GeneratorExit:  # nobody learns of its end, which comes all the same
                closed = True
                raise
            finally:
                if closed:
                    self._pending = bytearray()  # the other may still be with the kernel
                else:
                    self._fd = fd
                    del self._pending[:count]
                    self._moved(count, whole=False)
        if failed is None and closed and count < size:  # the kernel took the two apart
            failed = OSError(errno.EIO, "the file was closed before all was written", self.name)
        if failed is not None:
            raise failed

    async def _close(self, wait: bool = True) -> None:
        self._buf, self._at = b"", 0
        self._pending = bytearray()  # a write under way keeps the former
        await super()._close(wait)
