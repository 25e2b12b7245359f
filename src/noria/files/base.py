"""The base class of all files: an open descriptor, I/O at an offset, and closing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Self

from noria._core.files.pread import PreadFile
from noria.files.engine_base import MAX_RW_COUNT, Engine, add_result
from noria.files.modes import Mode

MAX_VECTORS = 1024  # buffers of one readv or writev: IOV_MAX, readv(2)


class File(PreadFile):
    """A file of the loop that opened it.

    Methods raise OSError as their system calls do, ValueError once closed, and
    io.UnsupportedOperation for what the mode or the kind of file does not allow.
    """

    _engine: Engine
    _closefd = True
    _detached = False

    def __init__(self, fd: int, name: Any, mode: Mode, closefd: bool, engine: Engine) -> None:
        self._engine = engine
        self._mode = mode
        self._closefd = closefd
        self._append = mode.kind == "a"
        self.name = name
        # The position is counted here, so that a cancelled read does not change it. -1: pipes and
        # terminals, which have no position.
        try:
            self._pos = os.lseek(fd, 0, os.SEEK_END if self._append else os.SEEK_CUR)
        except OSError:
            self._pos = -1
        self._fd = fd
        if mode.readable:
            self._cached_reader = engine
        self._pipe_read: asyncio.Future[bytes] | None = None  # in flight, see _read_next
        self._lock = asyncio.Lock()
        self._operations = 0  # in progress without the lock
        self._idle: asyncio.Future[None] | None = None  # set when there are none; close awaits it
        self._fd_to_close = -1  # by the last of them

    # Attributes and checks.

    @property
    def _file(self) -> Self:
        """In aiofiles, the built-in file."""
        return self

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def closefd(self) -> bool:
        return self._closefd

    @property
    def mode(self) -> str:
        return self._mode.name

    def fileno(self) -> int:
        self._check()
        return self._fd

    def readable(self) -> bool:
        self._check()
        return self._mode.readable

    async def writable(self) -> bool:
        self._check()
        return self._mode.writable

    async def seekable(self) -> bool:
        self._check()
        return self._pos >= 0

    async def isatty(self) -> bool:
        self._check()
        return os.isatty(self._fd)

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<noria {type(self).__name__} name={self.name!r} mode={self.mode!r}{state}>"

    # I/O at an offset.

    async def _pread(self, size: int, offset: int) -> bytes:
        """The uncommon cases of PreadFile.pread: errors, unflushed bytes, the limit of a turn."""
        self._check_reading()
        if size < 0 or offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        if self._unflushed_size():
            await self.flush()
        return await self._read_at(size, offset)

    async def pwrite(self, data: Any, offset: int) -> int:
        """Write all of `data` at `offset`; returns the count of bytes.

        The position does not change. A file opened for appending appends all the same: pwrite(2).
        If cancelled, the CancelledError has the count of bytes written as `result`.
        """
        self._check_writing()
        if self._unflushed_size() or self._unread_size():
            async with self._lock:
                await self._flush_and_rewind()
        with memoryview(data).cast("B") as view, self._using_fd() as fd:
            return await self._write_all(view, fd, offset)

    async def readv(self, buffers: Sequence[Any], offset: int = -1) -> int:
        """Fill the buffers one after the other with one preadv(2); returns the count of bytes.

        Reads at `offset`, or at the position if it is -1. At most 1024 buffers are used.
        """
        self._check_reading()
        buffers = buffers[:MAX_VECTORS]
        async with self._lock:
            self._check()
            await self._flush_and_rewind()
            where = self._pos if offset < 0 else offset
            count = await self._engine.readv(self._fd, buffers, where)
            if offset < 0 and self._pos >= 0:
                self._pos += count
        return count

    async def writev(self, buffers: Sequence[Any], offset: int = -1) -> int:
        """Write the buffers one after the other with one pwritev(2); returns the count of bytes.

        Writes at `offset`, or at the position if it is -1. At most 1024 buffers are used, and the
        kernel may write fewer bytes than there are.
        """
        self._check_writing()
        buffers = buffers[:MAX_VECTORS]
        async with self._lock:
            self._check()
            await self._flush_and_rewind()
            if offset < 0:
                return await self._write_at_position(self._engine.writev, buffers)
            return await self._engine.writev(self._fd, buffers, offset)

    async def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read each (offset, size) of `ranges`; returns the list of their bytes.

        With a ring, all go to the kernel in one call.
        """
        self._check_reading()
        if self._unflushed_size():
            await self.flush()
        with self._using_fd() as fd:
            return await self._engine.read_many(fd, list(ranges))

    async def fsync(self) -> None:
        """Flush, and wait until the data is on the device: fsync(2)."""
        await self.flush()
        with self._using_fd() as fd:
            await self._engine.fsync(fd)

    async def fdatasync(self) -> None:
        """As fsync, without metadata that reading does not need: fdatasync(2)."""
        await self.flush()
        with self._using_fd() as fd:
            await self._engine.fsync(fd, True)

    # Overridden by files with buffers.

    async def flush(self) -> None:
        self._check()

    async def _flush(self) -> None:
        """As `flush`, while the lock is held."""

    def _unread_size(self) -> int:
        """The count of bytes read ahead."""
        return 0

    def _unflushed_size(self) -> int:
        """The count of bytes written to the buffer and not flushed."""
        return len(self._write_buf) if self._write_buf else 0

    async def _flush_and_rewind(self) -> None:
        """Empty both buffers: flush, and move the position back to the first unread byte."""

    # For subclasses.

    @contextlib.contextmanager
    def _using_fd(self) -> Iterator[int]:
        """Keep the descriptor open during an operation that does not hold the lock.

        Raises ValueError if the file is closed.
        """
        self._check()
        self._operations += 1
        try:
            yield self._fd
        finally:
            self._operations -= 1
            if not self._operations and self._fd < 0:
                self._on_last_operation_end()

    def _on_last_operation_end(self) -> None:
        fd, self._fd_to_close = self._fd_to_close, -1
        if fd >= 0:
            os.close(fd)
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _check(self) -> None:
        if self._fd < 0:
            raise ValueError("I/O operation on closed file.")

    def _check_reading(self) -> None:
        self._check()
        if not self._mode.readable:
            raise io.UnsupportedOperation("read: the file is open for writing only")

    def _check_writing(self) -> None:
        self._check()
        if not self._mode.writable:
            raise io.UnsupportedOperation("write: the file is open for reading only")

    def _check_seekable(self) -> None:
        self._check()
        if self._pos < 0:
            raise io.UnsupportedOperation("the file has no position: it is a pipe or a terminal")

    async def _read_at(self, size: int, offset: int) -> bytes:
        self._check()
        size = min(size, MAX_RW_COUNT)
        return await self._pread_rest(
            size, offset, self._engine.read_cached(self._fd, size, offset)
        )

    async def _pread_rest(self, size: int, offset: int, data: bytes | None) -> bytes:
        """Read `size` bytes at `offset`, of which `data` was cached; None: not even the first."""
        with self._using_fd() as fd:
            if data is None:
                data = await self._engine.read(fd, min(size, MAX_RW_COUNT), offset)
            if len(data) == size or not data:
                return data
            # A short read: the rest is not cached, or the file ends here.
            while len(data) < size and offset + len(data) < os.fstat(fd).st_size:
                left = min(size - len(data), MAX_RW_COUNT)
                more = await self._engine.read(fd, left, offset + len(data))
                if not more:
                    break
                data += more
            return data

    async def _read_next(self, size: int) -> bytes:
        """Read once at the position."""
        self._check()
        if self._pos >= 0:
            size = min(size, MAX_RW_COUNT)
            data = self._engine.read_ahead_cached(self._fd, size, self._pos)
            if data is None:
                data = await self._engine.read(self._fd, size, self._pos)
            self._pos += len(data)
            return data
        # Data read from a pipe cannot be read again: a cancelled read is kept for the next call.
        if self._pipe_read is None:
            self._pipe_read = self._engine.start_read(self._fd, min(size, MAX_RW_COUNT))
        try:
            data = await asyncio.shield(self._pipe_read)
        except OSError:
            self._pipe_read = None
            raise
        self._pipe_read = None
        return data

    async def _write_once(self, data: Any) -> int:
        """Write once at the position; returns the count of bytes."""
        return await self._write_at_position(self._write_at, data)

    async def _write_at(self, fd: int, data: Any, offset: int) -> int:
        """Write once at `offset`, or at the descriptor's own position if it is -1."""
        return await self._engine.write(fd, data, offset)

    async def _write_at_position(
        self, write: Callable[[int, Any, int], Awaitable[int]], data: Any
    ) -> int:
        """Call `write` for the position, and advance it; also if cancelled."""
        self._check()
        if self._pos < 0:
            with self._using_fd() as fd:  # close does not acquire the lock of a pipe
                return await write(fd, data, -1)
        offset = -1 if self._append else self._pos
        try:
            count = await write(self._fd, data, offset)
        except asyncio.CancelledError as error:
            self._advance(getattr(error, "result", None) or 0, whole=False)
            raise
        self._advance(count, whole=not self._append or count == _size(data))
        return count

    def _advance(self, count: int, *, whole: bool) -> None:
        """Advance the position by `count` bytes written there; `whole` if these were all."""
        if self._pos < 0 or not count:
            return
        if self._append:
            # After a short write io_uring leaves the descriptor's position as it was.
            self._pos = os.lseek(self._fd, 0, os.SEEK_CUR if whole else os.SEEK_END)
        else:
            self._pos += count

    async def _write_all(self, view: Any, fd: int = -1, offset: int | None = None) -> int:
        """Write all of `view`, at `offset` of `fd` or at the position.

        If cancelled, the CancelledError has the count of bytes written as `result`.
        """
        done, size = 0, len(view)
        try:
            while done < size:
                rest = view[done:] if done else view
                if offset is None:
                    done += await self._write_once(rest)
                else:
                    done += await self._write_at(fd, rest, offset + done)
        except asyncio.CancelledError as error:
            add_result(error, done + (getattr(error, "result", None) or 0))
            raise
        return done

    # Closing.

    async def close(self) -> None:
        """Flush and close, after all operations that began before.

        The descriptor is closed even if flushing fails.
        """
        if self._detached:
            raise ValueError("the descriptor has been detached")
        if self._fd < 0:
            return
        if self._pos < 0:
            wait = True
            try:
                await self.flush()  # without the lock, which a read of a pipe may hold for long
            except asyncio.CancelledError:
                wait = False
                raise
            finally:
                await self._close(wait)
            return
        cancelled = await self._acquire_lock_for_close()
        try:
            try:
                await self._flush()
            finally:
                self._lock.release()
        finally:
            await self._close()
            if cancelled is not None:
                raise cancelled

    async def _acquire_lock_for_close(self) -> asyncio.CancelledError | None:
        """Acquire the lock, even if cancelled: its holder uses the descriptor.

        Returns the CancelledError, which the caller raises after closing.
        """
        cancelled = None
        while True:
            try:
                await self._lock.acquire()
            except asyncio.CancelledError as error:
                cancelled = error
            else:
                return cancelled

    async def _close(self, wait: bool = True) -> None:
        """Close the descriptor; without `wait`, the last operation in progress closes it."""
        fd, self._fd = self._fd, -1
        if self._pipe_read is not None:
            self._pipe_read.cancel()  # it would take the pipe's next data
        if fd >= 0 and self._closefd:
            if self._operations and not wait:
                self._fd_to_close = fd
                return
            if self._operations:
                await self._wait_until_idle(fd)
            await self._engine.close_fd(fd)

    async def _wait_until_idle(self, fd: int) -> None:
        """Wait for all operations in progress. If cancelled, the last of them closes `fd`, whose
        number must not be reused before."""
        self._idle = self._engine.loop.create_future()
        try:
            await self._idle
        except BaseException:
            if self._operations:
                self._fd_to_close = fd
            else:
                os.close(fd)
            raise

    def detach(self) -> io.FileIO:
        """Return the descriptor as a built-in unbuffered file; this file is closed.

        Raises ValueError if there is unflushed data: flush first.
        """
        self._check()
        if self._unflushed_size():
            raise ValueError("the file has unflushed data: flush it before detach")
        if self._pos >= 0:
            os.lseek(self._fd, self._pos - self._unread_size(), os.SEEK_SET)
        raw = io.FileIO(self._fd, self.mode.replace("b", ""), self._closefd)
        raw.name = self.name
        self._fd, self._detached = -1, True
        return raw

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(self, *what: object) -> None:
        await self.close()

    def __del__(self) -> None:
        fd = self._fd
        if fd < 0:
            return
        self._flush_in_del()
        self._fd = -1
        if self._closefd:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
            os.close(fd)

    def _flush_in_del(self) -> None:
        """Write the unflushed bytes of a file that is garbage collected, in blocking mode."""


def _size(data: Any) -> int:
    """The count of bytes of a buffer, or of a list of buffers."""
    if isinstance(data, (list, tuple)):
        return sum(map(_size, data))
    return memoryview(data).nbytes
