"""An open descriptor, and what is done at an offset of it: the part that every file shares."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Self

from noria._core.files.descriptor import Descriptor
from noria.files.engine import AT_ONCE, Engine
from noria.files.modes import Mode

VECTORS = 1024  # buffers of one readv or writev: IOV_MAX, readv(2)


class File(Descriptor):
    """What is common to all files. A file belongs to the loop that opened it.

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
        # Where it stands is counted here, so that a read that is given up moves nothing; -1 for
        # pipes and terminals, which have no position.
        try:
            self._pos = os.lseek(fd, 0, os.SEEK_END if self._append else os.SEEK_CUR)
        except OSError:
            self._pos = -1
        self._fd = fd
        if mode.readable:
            self._inline = engine
        self._begun: asyncio.Future[bytes] | None = None
        self._lock = asyncio.Lock()
        self._users = 0  # operations under way outside the lock
        self._unused: asyncio.Future[None] | None = None  # closing waits for these
        self._unclosed = -1  # a descriptor that the last of them closes

    # What needs no wait.

    @property
    def _file(self) -> Self:
        """For users of aiofiles, which has the built-in file here."""
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

    # At an offset.

    async def _pread(self, size: int, offset: int) -> bytes:
        """What Descriptor.pread leaves to it: wrong use, bytes not yet flushed, and the loop's
        turn."""
        self._check_reading()
        if size < 0 or offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        if self._unwritten():
            await self.flush()
        return await self._at_offset(size, offset)

    async def pwrite(self, data: Any, offset: int) -> int:
        """Writes all of `data` at `offset`, moves nothing, and returns the count of bytes. A file
        opened for appending appends all the same, pwrite(2). Cancelled, the CancelledError has
        the count of bytes written as `result`."""
        self._check_writing()
        if self._unwritten() or self._unread():
            async with self._lock:
                await self._settle()
        with memoryview(data).cast("B") as view, self._in_use() as fd:
            return await self._write_all(view, fd, offset)

    async def readv(self, buffers: Sequence[Any], offset: int = -1) -> int:
        """Fills the buffers one after the other, at `offset` or where the file stands, with one
        preadv(2), which takes 1024 of them; the count of bytes."""
        self._check_reading()
        buffers = buffers[:VECTORS]
        async with self._lock:
            self._check()
            await self._settle()
            where = self._pos if offset < 0 else offset
            count = await self._engine.readv(self._fd, buffers, where)
            if offset < 0 and self._pos >= 0:
                self._pos += count
        return count

    async def writev(self, buffers: Sequence[Any], offset: int = -1) -> int:
        """Writes the buffers one after the other, at `offset` or where the file stands, with one
        pwritev(2), which takes 1024 of them; the count of bytes, which may be fewer than all."""
        self._check_writing()
        buffers = buffers[:VECTORS]
        async with self._lock:
            self._check()
            await self._settle()
            if offset < 0:
                return await self._here(self._engine.writev, buffers)
            return await self._engine.writev(self._fd, buffers, offset)

    async def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), asked of the kernel in one call."""
        self._check_reading()
        if self._unwritten():
            await self.flush()
        with self._in_use() as fd:
            return await self._engine.read_many(fd, list(ranges))

    async def fsync(self) -> None:
        """Flushes, and waits until the device has it, fsync(2)."""
        await self.flush()
        with self._in_use() as fd:
            await self._engine.fsync(fd)

    async def fdatasync(self) -> None:
        """The same without metadata that reading does not need, fdatasync(2)."""
        await self.flush()
        with self._in_use() as fd:
            await self._engine.fsync(fd, True)

    # Overridden by files that keep bytes.

    async def flush(self) -> None:
        self._check()

    async def _flush(self) -> None:
        """As `flush`, with the lock held."""

    def _unread(self) -> int:
        return 0

    def _unwritten(self) -> int:
        return len(self._pending) if self._pending else 0

    async def _settle(self) -> None:
        """Nothing is kept: what was written is handed over, what was read ahead is forgotten."""

    # For those that build on it.

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[int]:
        """The descriptor, which stays open meanwhile. For operations that do not hold the lock.

        Raises ValueError if the file is closed.
        """
        self._check()
        self._users += 1
        try:
            yield self._fd
        finally:
            self._users -= 1
            if not self._users and self._fd < 0:
                self._last_ended()

    def _last_ended(self) -> None:
        fd, self._unclosed = self._unclosed, -1
        if fd >= 0:
            os.close(fd)
        elif self._unused is not None and not self._unused.done():
            self._unused.set_result(None)

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

    async def _at_offset(self, size: int, offset: int) -> bytes:
        self._check()
        size = min(size, AT_ONCE)
        return await self._read_on(size, offset, self._engine.now(self._fd, size, offset))

    async def _read_on(self, size: int, offset: int, data: bytes | None) -> bytes:
        """Where `data` is what there was in memory, or None."""
        with self._in_use() as fd:
            if data is None:
                data = await self._engine.read(fd, min(size, AT_ONCE), offset)
            if len(data) == size or not data:
                return data
            # Short: the rest is not in memory, or the file ends here.
            while len(data) < size and offset + len(data) < os.fstat(fd).st_size:
                left = min(size - len(data), AT_ONCE)
                more = await self._engine.read(fd, left, offset + len(data))
                if not more:
                    break
                data += more
            return data

    async def _next(self, size: int) -> bytes:
        """One read where the file stands."""
        self._check()
        if self._pos >= 0:
            size = min(size, AT_ONCE)
            data = self._engine.ahead(self._fd, size, self._pos)
            if data is None:
                data = await self._engine.read(self._fd, size, self._pos)
            self._pos += len(data)
            return data
        # What a pipe gives is gone from it: a read that is given up is kept for the next one.
        if self._begun is None:
            self._begun = self._engine.begin(self._fd, min(size, AT_ONCE))
        try:
            data = await asyncio.shield(self._begun)
        except OSError:
            self._begun = None
            raise
        self._begun = None
        return data

    async def _put(self, data: Any) -> int:
        """One write where the file stands."""
        return await self._here(self._write_at, data)

    async def _write_at(self, fd: int, data: Any, offset: int) -> int:
        """One write, at `offset` or where the descriptor stands."""
        return await self._engine.write(fd, data, offset)

    async def _here(self, write: Callable[[int, Any, int], Awaitable[int]], data: Any) -> int:
        """Where the file stands. Cancelled, the position is right all the same."""
        self._check()
        if self._pos < 0:
            with self._in_use() as fd:  # closing does not wait for the lock
                return await write(fd, data, -1)
        offset = -1 if self._append else self._pos
        try:
            count = await write(self._fd, data, offset)
        except asyncio.CancelledError as error:
            self._moved(getattr(error, "result", None) or 0, whole=False)
            raise
        self._moved(count, whole=not self._append or count == _size(data))
        return count

    def _moved(self, count: int, *, whole: bool) -> None:
        """Counts what was written where the file stands; `whole` if that was all."""
        if self._pos < 0 or not count:
            return
        if self._append:
            # After a short write of io_uring the descriptor stands where it stood before.
            self._pos = os.lseek(self._fd, 0, os.SEEK_CUR if whole else os.SEEK_END)
        else:
            self._pos += count

    async def _write_all(self, view: Any, fd: int = -1, offset: int | None = None) -> int:
        """All of it, at `offset` of `fd` or where the file stands."""
        done, size = 0, len(view)
        try:
            while done < size:
                rest = view[done:] if done else view
                if offset is None:
                    done += await self._put(rest)
                else:
                    done += await self._write_at(fd, rest, offset + done)
        except asyncio.CancelledError as error:
            told: Any = error
            told.result = done + (getattr(error, "result", None) or 0)
            raise
        return done

    # The end.

    async def close(self) -> None:
        """Flushes and closes, after the operations that began before. The descriptor is closed even
        where flushing fails."""
        if self._detached:
            raise ValueError("the descriptor has been detached")
        if self._fd < 0:
            return
        if self._pos < 0:
            wait = True
            try:
                await self.flush()  # a read of a pipe may hold the lock for long
            except asyncio.CancelledError:
                wait = False
                raise
            finally:
                await self._close(wait)
            return
        cancelled = await self._lock_for_closing()
        try:
            try:
                await self._flush()
            finally:
                self._lock.release()
        finally:
            await self._close()
            if cancelled is not None:
                raise cancelled

    async def _lock_for_closing(self) -> asyncio.CancelledError | None:
        """Acquires the lock: the operation that holds it uses the descriptor until it ends.

        Returns the cancellation that came meanwhile, which is to be raised after closing.
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
        """Without `wait`, the last operation under way closes the descriptor."""
        fd, self._fd = self._fd, -1
        if self._begun is not None:
            self._begun.cancel()  # else it would take what comes next from the pipe
        if fd >= 0 and self._closefd:
            if self._users and not wait:
                self._unclosed = fd
                return
            if self._users:
                await self._wait_until_unused(fd)
            await self._engine.close_fd(fd)

    async def _wait_until_unused(self, fd: int) -> None:
        """If cancelled, the last operation closes `fd`: its number must not become another file's
        before."""
        self._unused = self._engine.loop.create_future()
        try:
            await self._unused
        except BaseException:
            if self._users:
                self._unclosed = fd
            else:
                os.close(fd)
            raise

    def detach(self) -> io.FileIO:
        """The descriptor as a built-in unbuffered file; this one is closed. What is not yet
        written goes with it, so flush first."""
        self._check()
        if self._unwritten():
            raise ValueError("flush the file before it is detached")
        if self._pos >= 0:
            os.lseek(self._fd, self._pos - self._unread(), os.SEEK_SET)
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
        self._abandoned()
        self._fd = -1
        if self._closefd:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
            os.close(fd)

    def _abandoned(self) -> None:
        """What is written and not handed over when nobody has the file any more."""


def _size(data: Any) -> int:
    """Bytes of a buffer, or of several."""
    if isinstance(data, (list, tuple)):
        return sum(map(_size, data))
    return memoryview(data).nbytes
