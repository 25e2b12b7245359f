"""Buffered binary files: reads fetch whole blocks, and small writes are collected."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import Iterable
from typing import Any, Self

from noria.files.base import File
from noria.files.engine_base import MAX_RW_COUNT, Engine, add_result
from noria.files.modes import Mode

DEFAULT_BUFFER_SIZE = 64 * 1024  # bytes


class BinaryFile(File):
    """`noria.open(path, "rb")`: the methods of io.BufferedReader, BufferedWriter and
    BufferedRandom as coroutines.

    Calls that find their bytes in the buffer do not wait. The file has either bytes read ahead
    (`_read_buf` from `_read_pos` on) or bytes to write (`_write_buf`), never both. `_pos` is the
    offset in the file after the first and before the second.
    """

    _write_buf: bytearray

    def __init__(
        self,
        fd: int,
        name: Any,
        mode: Mode,
        closefd: bool,
        engine: Engine,
        block: int = DEFAULT_BUFFER_SIZE,
    ) -> None:
        self._buffer_size = block
        self._read_buf = b""
        self._read_pos = 0
        self._write_buf = bytearray()
        super().__init__(fd, name, mode, closefd, engine)

    @property
    def raw(self) -> File:
        """The file itself: there is no separate unbuffered file."""
        return self

    # Reading.

    async def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes, fewer only at the end of the file; -1: all that is left."""
        if size is None:
            size = -1
        end = self._read_pos + size
        if size > 0 and end <= len(self._read_buf) and not self._lock.locked():
            data = self._read_buf[self._read_pos : end]
            self._read_pos = end
            return data
        async with self._lock:
            return await self._read(size)

    async def _read(self, size: int) -> bytes:
        await self._prepare_read()
        if size < -1:
            raise ValueError("read length must be non-negative or -1")
        if size < 0:
            while await self._fill(self._bytes_left() or self._buffer_size):
                pass
            return self._take(len(self._read_buf))
        while (missing := size - self._unread_size()) > 0 and await self._fill(missing):
            pass
        return self._take(self._read_pos + size)

    async def read1(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, with at most one system call."""
        async with self._lock:
            return await self._read1(size)

    async def _read1(self, size: int) -> bytes:
        await self._prepare_read()
        if size < 0:
            size = self._buffer_size
        if size and not self._unread_size():
            await self._fill(1)
        return self._take(self._read_pos + size)

    async def peek(self, size: int = 0) -> bytes:
        """Return the bytes read ahead without consuming them; if there are none, read a block."""
        async with self._lock:
            await self._prepare_read()
            if not self._unread_size():
                await self._fill(1)
            return self._read_buf[self._read_pos :]

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
        """Read through the next newline, at most `size` bytes."""
        end = self._read_buf.find(b"\n", self._read_pos) + 1
        if end and (size is None or size < 0) and not self._lock.locked():
            line = self._read_buf[self._read_pos : end]
            self._read_pos = end
            return line
        if size == 0:
            self._check()
            return b""
        async with self._lock:
            return await self._readline(-1 if size is None else size)

    async def _readline(self, size: int) -> bytes:
        await self._prepare_read()
        seen = 0
        while True:
            limit = (
                len(self._read_buf) if size < 0 else min(self._read_pos + size, len(self._read_buf))
            )
            end = self._read_buf.find(b"\n", self._read_pos + seen, limit) + 1
            if end:
                return self._take(end)
            if 0 <= size <= self._unread_size():
                return self._take(self._read_pos + size)
            seen = self._unread_size()
            if not await self._fill(1):
                return self._take(len(self._read_buf))

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
        end = self._read_buf.find(b"\n", self._read_pos) + 1
        if end and not self._lock.locked():
            line = self._read_buf[self._read_pos : end]
            self._read_pos = end
            return line
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration

    async def _prepare_read(self) -> None:
        self._check_reading()
        if self._write_buf:
            await self._flush()

    async def _fill(self, size: int) -> bool:
        """Append to the read buffer: `size` bytes, a block, or as many as are unread, whichever is
        most, so that long lines take few reads. Returns False at the end of the file."""
        unread = self._unread_size()
        data = await self._read_next(max(size, self._buffer_size, unread))
        if data:
            self._read_buf = self._read_buf[self._read_pos :] + data if unread else data
            self._read_pos = 0
        return bool(data)

    def _take(self, end: int) -> bytes:
        data = self._read_buf[self._read_pos : end]
        self._read_pos += len(data)
        if self._read_pos == len(self._read_buf):
            self._read_buf, self._read_pos = b"", 0
        return data

    def _push_back(self, data: bytes) -> None:
        """Put bytes back in front of the read buffer."""
        if data:
            self._read_buf, self._read_pos = data + self._read_buf[self._read_pos :], 0

    def _unread_size(self) -> int:
        return len(self._read_buf) - self._read_pos

    def _bytes_left(self) -> int:
        """Bytes from the position to the end, and one more, so that one read finds the end."""
        return min(max(os.fstat(self._fd).st_size - self._pos + 1, 0), MAX_RW_COUNT)

    # Writing.

    async def write(self, data: Any) -> int:
        """Write all of `data`; returns the count of bytes.

        If cancelled, the CancelledError has as `result` the count of bytes that were written.
        """
        if isinstance(data, bytes):
            return await self._write_or_buffer(data)
        self._check_writing()
        with memoryview(data).cast("B") as view:
            return await self._write_or_buffer(view)

    async def _write_or_buffer(self, data: Any) -> int:
        if (
            self._fd >= 0
            and self._mode.writable
            and not self._read_buf
            and len(self._write_buf) + len(data) <= self._buffer_size
            and not self._lock.locked()
        ):
            self._write_buf += data
            return len(data)
        try:
            async with self._lock:
                return await self._write(data)
        except asyncio.CancelledError as error:
            # `result` may count bytes of earlier calls, which a flush has written.
            add_result(error, getattr(error, "written_of_this_call", 0))
            raise

    async def _write(self, data: Any) -> int:
        self._check_writing()
        self._drop_read_ahead()
        if len(self._write_buf) + len(data) > self._buffer_size:
            await self._flush()
        if len(data) <= self._buffer_size:
            self._write_buf += data
            return len(data)
        try:
            return await self._write_all(data)
        except asyncio.CancelledError as error:
            annotated: Any = error
            annotated.written_of_this_call = annotated.result
            raise

    async def writelines(self, lines: Iterable[Any]) -> None:
        self._check()
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        """Write the buffer to the file. What the kernel does not take stays in the buffer."""
        self._check()
        if self._write_buf or self._lock.locked():
            async with self._lock:
                await self._flush()

    async def _flush(self) -> None:
        while self._write_buf:
            try:
                count = await self._write_once(self._write_buf)  # the lock protects it
            except asyncio.CancelledError as error:
                del self._write_buf[: getattr(error, "result", None) or 0]
                raise
            del self._write_buf[:count]

    def _drop_read_ahead(self) -> None:
        """Move the position back to the first unread byte."""
        if self._pos >= 0 and self._read_buf:
            self._pos -= self._unread_size()
            self._read_buf, self._read_pos = b"", 0

    async def _flush_and_rewind(self) -> None:
        await self._flush()
        self._drop_read_ahead()

    def _flush_in_del(self) -> None:
        rest = memoryview(self._write_buf)
        while rest:
            if self._append or self._pos < 0:
                count = os.write(self._fd, rest)
            else:
                count = os.pwrite(self._fd, rest, self._pos)
                self._pos += count
            rest = rest[count:]

    # Position and size.

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
        start = self._pos - len(self._read_buf)
        if whence == os.SEEK_SET and self._read_buf and start <= offset <= self._pos:
            self._read_pos = offset - start  # within the read buffer
            return offset
        position = os.lseek(self._fd, offset, whence)
        self._read_buf, self._read_pos = b"", 0
        self._pos = position
        return position

    async def tell(self) -> int:
        self._check_seekable()
        return self._tell()

    def _tell(self) -> int:
        return self._pos - self._unread_size() + len(self._write_buf)

    async def truncate(self, size: int | None = None) -> int:
        """Set the file's size, by default to the position, which does not change."""
        self._check()
        if not self._mode.writable:
            raise io.UnsupportedOperation("truncate: the file is open for reading only")
        async with self._lock:
            self._check()
            await self._flush_and_rewind()
            size = self._tell() if size is None else size
            await self._engine.change_in_thread(os.ftruncate, self._fd, size)
        return size

    async def close(self) -> None:
        """Flush and close. The descriptor is closed even if flushing fails."""
        if (
            0 < len(self._write_buf) <= MAX_RW_COUNT
            and self._fd >= 0
            and self._pos >= 0  # a pipe may block for long, and must be cancellable
            and self._closefd
            and not self._operations
            and not self._lock.locked()
        ):
            try:
                await self._write_and_close()
            finally:
                if self._fd >= 0:  # a short write: this writes the rest, or raises
                    await super().close()
            return
        if self._fd < 0 and self._lock.locked():
            async with self._lock:  # another task is closing it
                return
        await super().close()

    async def _write_and_close(self) -> None:
        """Write the buffer and close, in one call. After a short write the file is still open."""
        async with self._lock:
            fd, self._fd = self._fd, -1
            count, closed, failed = 0, False, None
            size = len(self._write_buf)
            try:
                offset = -1 if self._append else self._pos
                done = await self._engine.write_and_close(fd, self._write_buf, offset)
                count, closed, failed = done
            except asyncio.CancelledError as error:
                count, closed, _ = getattr(error, "result", None) or (0, False, None)
                add_result(error, count)
                raise
            except GeneratorExit:  # the coroutine is closed; the requests end all the same
                closed = True
                raise
            finally:
                if closed:
                    self._write_buf = bytearray()  # the kernel may still use the old one
                else:
                    self._fd = fd
                    del self._write_buf[:count]
                    self._advance(count, whole=False)
        if failed is None and closed and count < size:  # the kernel did not link the two
            failed = OSError(
                errno.EIO, "the file was closed before all data was written", self.name
            )
        if failed is not None:
            raise failed

    async def _close(self, wait: bool = True) -> None:
        self._read_buf, self._read_pos = b"", 0
        self._write_buf = bytearray()  # a write in flight keeps the old one
        await super()._close(wait)
