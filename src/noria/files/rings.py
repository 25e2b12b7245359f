"""File I/O through io_uring: requests of one turn of the loop go to the kernel in one call."""

from __future__ import annotations

import asyncio
import errno
import os
import weakref
from collections.abc import Sequence
from typing import Any

from noria._core.files.ring import Outcome, Request, Ring
from noria.files.engine import AT_ONCE, HERE, Engine, PathLike

AT_FDCWD = -100
NOTHING, OPENED = int(Outcome.NOTHING), int(Outcome.OPENED)
FSYNC, OPENAT, CLOSE = 3, 18, 19  # opcodes, include/uapi/linux/io_uring.h
RENAMEAT, UNLINKAT, MKDIRAT = 35, 36, 37
DATASYNC = 1
AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR = 0x100, 0x200
UNSIGNED = 0xFFFFFFFF


class RingEngine(Engine):
    name = "ring"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.ring = ring = Ring(loop)
        # The loop must not keep what ends with it.
        me = weakref.ref(self)

        def completed() -> None:
            engine = me()
            if engine is not None:
                engine.ring.completed()

        try:
            loop.add_reader(ring.fileno(), completed)
        except BaseException:
            ring.close()
            raise

    def close(self) -> None:
        fd = self.ring.fileno()
        if fd >= 0:
            if not self.loop.is_closed():
                self.loop.remove_reader(fd)
            self.ring.close()

    async def ended(self, request: Request) -> Any:
        """The result of what changes something. Cancelled, the kernel is asked to give it up and is
        waited for: the CancelledError has what came of it as `result`, or the OSError as `error`;
        both None if it did not happen."""
        future: Any = request.future
        try:
            return await future
        except asyncio.CancelledError as error:
            told: Any = error
            told.result, told.error = future.came
            raise

    async def open(self, path: PathLike, flags: int, mode: int = 0o666) -> int:
        request = self.ring.call(
            OPENAT,
            OPENED,
            AT_FDCWD,
            encoded(path),
            mode,
            flags=flags | os.O_CLOEXEC,
            filename=path,
        )
        future: asyncio.Future[int] = request.future
        try:
            return await future
        except asyncio.CancelledError:
            self.ring.cancel(request)
            if not future.cancelled() and future.exception() is None:
                os.close(future.result())  # it was there, and nobody takes it
            raise

    async def close_fd(self, fd: int) -> None:
        await self.ended(self.ring.call(CLOSE, NOTHING, fd))

    async def read(self, fd: int, size: int, offset: int = HERE) -> bytes:
        request = self.ring.read(fd, size, offset)
        try:
            data: bytes = await request.future
        except asyncio.CancelledError:
            self.ring.cancel(request)
            raise
        return data

    def begin(self, fd: int, size: int) -> asyncio.Future[bytes]:
        request = self.ring.read(fd, size, HERE)
        future: asyncio.Future[bytes] = request.future

        def ended(future: asyncio.Future[bytes]) -> None:
            if future.cancelled():
                self.ring.cancel(request)

        future.add_done_callback(ended)
        return future

    async def readinto(self, fd: int, buffer: Any, offset: int = HERE) -> int:
        # The caller's own memory: it must not be written to after this has ended.
        count: int = await self.ended(self.ring.readinto(fd, buffer, offset))
        return count

    async def read_many(self, fd: int, ranges: list[tuple[int, int]]) -> list[bytes]:
        clamped = [(offset, min(size, AT_ONCE)) for offset, size in ranges]
        return await self.ring.read_many(fd, clamped)

    async def write(self, fd: int, data: Any, offset: int = HERE) -> int:
        count: int = await self.ended(self.ring.write(fd, data, offset))
        return count

    async def write_and_close(
        self, fd: int, data: Any, offset: int
    ) -> tuple[int, bool, OSError | None]:
        future = self.ring.write_and_close(fd, data, offset)
        try:
            return parted(await future)
        except asyncio.CancelledError as error:
            told: Any = error
            told.result = parted(future.came[0])
            raise

    async def writev(self, fd: int, buffers: Sequence[Any], offset: int = HERE) -> int:
        count: int = await self.ended(self.ring.writev(fd, list(buffers), offset))
        return count

    async def readv(self, fd: int, buffers: Sequence[Any], offset: int = HERE) -> int:
        count: int = await self.ended(self.ring.readv(fd, list(buffers), offset))
        return count

    async def fsync(self, fd: int, data_only: bool = False) -> None:
        flags = DATASYNC if data_only else 0
        await self.ended(self.ring.call(FSYNC, NOTHING, fd, flags=flags))

    async def stat(self, path: str | bytes, follow: bool) -> os.stat_result:
        flags = 0 if follow else AT_SYMLINK_NOFOLLOW
        result: os.stat_result = await self.ring.stat(AT_FDCWD, encoded(path), flags, path).future
        return result

    async def unlink(self, path: str | bytes) -> None:
        await self.named(UNLINKAT, path)

    async def rmdir(self, path: str | bytes) -> None:
        await self.named(UNLINKAT, path, flags=AT_REMOVEDIR)

    async def mkdir(self, path: str | bytes, mode: int) -> None:
        await self.named(MKDIRAT, path, mode)

    async def rename(self, source: str | bytes, target: str | bytes) -> None:
        request = self.ring.call(
            RENAMEAT, NOTHING, AT_FDCWD, encoded(source), UNSIGNED + 1 + AT_FDCWD, encoded(target)
        )
        try:
            await self.ended(request)
        except OSError as error:
            raise OSError(error.errno, error.strerror, source, None, target) from None

    async def named(self, opcode: int, path: str | bytes, length: int = 0, flags: int = 0) -> None:
        await self.ended(
            self.ring.call(
                opcode, NOTHING, AT_FDCWD, encoded(path), length, flags=flags, filename=path
            )
        )


def parted(results: list[Any]) -> tuple[int, bool, OSError | None]:
    """What was written, whether the descriptor was closed after it, and what closing failed with:
    it leaves nothing open even so."""
    count, closed = results
    if isinstance(count, OSError):
        count = 0
    if closed is None:
        return count, True, None
    if closed.errno == errno.ECANCELED:
        return count, False, None
    return count, True, closed


def encoded(path: PathLike) -> bytes:
    """What the kernel takes. Raises ValueError for a NUL, as the built-in open does."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    return raw + b"\0"
