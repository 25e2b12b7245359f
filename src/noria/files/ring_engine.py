"""File I/O on an io_uring ring: one turn's requests go to the kernel in one call."""

from __future__ import annotations

import asyncio
import errno
import os
import weakref
from collections.abc import Sequence
from typing import Any

from noria._core.files.file_ring import FileRing, Request
from noria.files.engine_base import (
    CURRENT_POSITION,
    MAX_RW_COUNT,
    Engine,
    PathLike,
    add_outcome,
    add_result,
)

AT_SYMLINK_NOFOLLOW = 0x100  # statx(2)
AT_REMOVEDIR = 0x200  # unlinkat(2)


class RingEngine(Engine):
    """A ring beside the loop, which watches the ring's descriptor.

    Raises OSError if the kernel refuses a ring, NotImplementedError if the loop cannot watch one.
    """

    name = "ring"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.ring = ring = FileRing(loop)
        # A weak reference: the loop must not keep the engine alive.
        self_ref = weakref.ref(self)

        def on_readable() -> None:
            engine = self_ref()
            if engine is not None:
                engine.ring.on_readable()

        try:
            loop.add_reader(ring.fileno(), on_readable)
        except BaseException:
            ring.close()
            raise

    def close(self) -> None:
        """Cancel what is in flight, and wait until the kernel no longer uses its memory."""
        fd = self.ring.fileno()
        if fd >= 0:
            if not self.loop.is_closed():
                self.loop.remove_reader(fd)
            self.ring.close()

    async def await_change(self, request: Request) -> Any:
        """The result of a request whose future is a CompletionFuture.

        If cancelled, the CancelledError has its outcome.
        """
        future: Any = request.future
        try:
            return await future
        except asyncio.CancelledError as error:
            add_outcome(error, *future.outcome)
            raise

    async def open(self, path: PathLike, flags: int, mode: int = 0o666) -> int:
        request = self.ring.openat(with_nul(path), flags | os.O_CLOEXEC, mode, path)
        future: asyncio.Future[int] = request.future
        try:
            return await future
        except asyncio.CancelledError:
            self.ring.cancel(request)
            if not future.cancelled() and future.exception() is None:
                # The task was cancelled after the future was done: close the descriptor.
                os.close(future.result())
            raise

    async def close_fd(self, fd: int) -> None:
        await self.await_change(self.ring.close_fd(fd))

    async def read(self, fd: int, size: int, offset: int = CURRENT_POSITION) -> bytes:
        request = self.ring.read(fd, size, offset)
        try:
            data: bytes = await request.future
        except asyncio.CancelledError:
            self.ring.cancel(request)
            raise
        return data

    def start_read(self, fd: int, size: int) -> asyncio.Future[bytes]:
        request = self.ring.read(fd, size, CURRENT_POSITION)
        future: asyncio.Future[bytes] = request.future

        def cancel_request(future: asyncio.Future[bytes]) -> None:
            if future.cancelled():
                self.ring.cancel(request)

        future.add_done_callback(cancel_request)
        return future

    async def readinto(self, fd: int, buffer: Any, offset: int = CURRENT_POSITION) -> int:
        # A CompletionFuture: nothing may write to the caller's memory after this has returned.
        count: int = await self.await_change(self.ring.readinto(fd, buffer, offset))
        return count

    async def read_many(self, fd: int, ranges: list[tuple[int, int]]) -> list[bytes]:
        clamped = [(offset, min(size, MAX_RW_COUNT)) for offset, size in ranges]
        return await self.ring.read_many(fd, clamped)

    async def readv(self, fd: int, buffers: Sequence[Any], offset: int = CURRENT_POSITION) -> int:
        count: int = await self.await_change(self.ring.readv(fd, list(buffers), offset))
        return count

    async def write(self, fd: int, data: Any, offset: int = CURRENT_POSITION) -> int:
        count: int = await self.await_change(self.ring.write(fd, data, offset))
        return count

    async def writev(self, fd: int, buffers: Sequence[Any], offset: int = CURRENT_POSITION) -> int:
        count: int = await self.await_change(self.ring.writev(fd, list(buffers), offset))
        return count

    async def write_and_close(
        self, fd: int, data: Any, offset: int
    ) -> tuple[int, bool, OSError | None]:
        future = self.ring.write_and_close(fd, data, offset)
        try:
            return _write_and_close_result(await future)
        except asyncio.CancelledError as error:
            add_result(error, _write_and_close_result(future.outcome[0]))
            raise

    async def fsync(self, fd: int, data_only: bool = False) -> None:
        await self.await_change(self.ring.fsync(fd, data_only))

    async def stat(self, path: str | bytes, follow: bool) -> os.stat_result:
        flags = 0 if follow else AT_SYMLINK_NOFOLLOW
        result: os.stat_result = await self.ring.statx(with_nul(path), flags, path).future
        return result

    async def unlink(self, path: str | bytes) -> None:
        await self.await_change(self.ring.unlinkat(with_nul(path), 0, path))

    async def rmdir(self, path: str | bytes) -> None:
        await self.await_change(self.ring.unlinkat(with_nul(path), AT_REMOVEDIR, path))

    async def mkdir(self, path: str | bytes, mode: int) -> None:
        await self.await_change(self.ring.mkdirat(with_nul(path), mode, path))

    async def rename(self, source: str | bytes, target: str | bytes) -> None:
        request = self.ring.renameat(with_nul(source), with_nul(target))
        try:
            await self.await_change(request)
        except OSError as error:
            raise OSError(error.errno, error.strerror, source, None, target) from None


def _write_and_close_result(results: list[Any]) -> tuple[int, bool, OSError | None]:
    """The result of Engine.write_and_close of the ring's two results."""
    count, close_error = results
    if isinstance(count, OSError):
        count = 0
    if close_error is None:
        return count, True, None
    if close_error.errno == errno.ECANCELED:
        return count, False, None
    return count, True, close_error


def with_nul(path: PathLike) -> bytes:
    """The path as the kernel takes it. Raises ValueError for a NUL, as the built-in open does."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return raw + b"\0"
