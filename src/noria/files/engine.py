"""Who does the I/O of files: a ring of io_uring beside the loop, or the loop's threads.

One engine a loop, made by the first file of it and closed with the loop.
`noria.files.engine.current().name` says which one a program has; NORIA_FILES=threads chooses the
second.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from noria._core.files.descriptor import Inline

T = TypeVar("T")
PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

HERE = -1  # as an offset: where the descriptor stands
AT_ONCE = 0x7FFFF000  # bytes the kernel transfers in one call at most, read(2)


class Engine(Inline):
    """Threads of the loop's own executor. Every method raises OSError."""

    name = "threads"
    provisional = False  # in place of a ring for which no descriptor was free
    ending: AsyncGenerator[None, None]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.loop = loop

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call any function in a thread. Takes a turn of the loop at least."""
        future = self.loop.run_in_executor(None, function, *arguments)
        if future.done():
            # asyncio of Python 3.13.15, 3.14 and later sets the result at once if the thread has
            # ended. Without a turn, a coroutine whose reads always end so would starve other tasks.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                future.exception()  # retrieved, so that it is not logged
                raise
        return await future

    async def finished(self, function: Callable[..., T], *arguments: Any) -> T:
        """The same for what changes something. Cancelled, it goes to its end all the same, and the
        CancelledError has what came of it as `result`, or the OSError as `error`."""
        return await outcome(self.loop.run_in_executor(None, function, *arguments))

    async def open(self, path: PathLike, flags: int, mode: int = 0o666) -> int:
        return await self.opened(os.open, path, flags, mode)

    async def opened(self, opener: Callable[..., int], *arguments: Any) -> int:
        """The descriptor that a function opens in a thread."""
        return await descriptor(self.loop.run_in_executor(None, opener, *arguments))

    async def close_fd(self, fd: int) -> None:
        await self.finished(os.close, fd)

    async def read(self, fd: int, size: int, offset: int = HERE) -> bytes:
        if offset == HERE:
            return await self.call(os.read, fd, size)
        return await self.call(os.pread, fd, size, offset)

    def begin(self, fd: int, size: int) -> asyncio.Future[bytes]:
        """A read where the descriptor stands, for one who may have to leave it unfinished."""
        return self.loop.run_in_executor(None, os.read, fd, size)

    async def readinto(self, fd: int, buffer: Any, offset: int = HERE) -> int:
        if offset == HERE:
            return await self.call(os.readv, fd, [buffer])
        return await self.call(os.preadv, fd, [buffer], offset)

    async def read_many(self, fd: int, ranges: list[tuple[int, int]]) -> list[bytes]:
        def read() -> list[bytes]:
            return [os.pread(fd, min(size, AT_ONCE), offset) for offset, size in ranges]

        return await self.call(read)

    async def write(self, fd: int, data: Any, offset: int = HERE) -> int:
        if offset == HERE:
            return await self.finished(os.write, fd, data)
        return await self.finished(os.pwrite, fd, data, offset)

    async def write_and_close(
        self, fd: int, data: Any, offset: int
    ) -> tuple[int, bool, OSError | None]:
        """Writes and then closes the descriptor, if all was written: the count, whether it is
        closed, and the error of closing, which leaves nothing open. What it raises comes before
        anything is done.

        Goes to its end once begun; cancelled, the CancelledError has that as `result`.
        """
        return await self.finished(_write_and_close, fd, data, offset)

    async def writev(self, fd: int, buffers: Sequence[Any], offset: int = HERE) -> int:
        if offset == HERE:
            return await self.finished(os.writev, fd, buffers)
        return await self.finished(os.pwritev, fd, buffers, offset)

    async def readv(self, fd: int, buffers: Sequence[Any], offset: int = HERE) -> int:
        # Not into the caller's memory: a thread cannot be kept from it once that has given up.
        return await scattered(buffers, lambda size: self.read(fd, size, offset))

    async def fsync(self, fd: int, data_only: bool = False) -> None:
        await self.finished(os.fdatasync if data_only else os.fsync, fd)

    # Names. A path is a str or bytes here, and the working directory is where it starts.

    async def stat(self, path: str | bytes, follow: bool) -> os.stat_result:
        return await self.call(os.stat if follow else os.lstat, path)

    async def unlink(self, path: str | bytes) -> None:
        await self.finished(os.unlink, path)

    async def rmdir(self, path: str | bytes) -> None:
        await self.finished(os.rmdir, path)

    async def mkdir(self, path: str | bytes, mode: int) -> None:
        await self.finished(os.mkdir, path, mode)

    async def rename(self, source: str | bytes, target: str | bytes) -> None:
        await self.finished(os.rename, source, target)

    def close(self) -> None:
        """The threads are the loop's."""


def _write_and_close(fd: int, data: Any, offset: int) -> tuple[int, bool, OSError | None]:
    try:
        count = os.write(fd, data) if offset == HERE else os.pwrite(fd, data, offset)
    except OSError:
        return 0, False, None  # who writes the rest is told why
    if count < len(data):
        return count, False, None
    try:
        os.close(fd)
    except OSError as error:
        return count, True, error
    return count, True, None


async def scattered(buffers: Sequence[Any], read: Callable[[int], Awaitable[bytes]]) -> int:
    """Reads as many bytes as there is room for, once, and puts them into the buffers in turn.

    Raises BufferError for one that cannot be written to, before anything is read.
    """
    with contextlib.ExitStack() as views:
        parts = [views.enter_context(memoryview(each).cast("B")) for each in buffers]
        if any(part.readonly for part in parts):
            raise BufferError("Object is not writable.")
        data = await read(sum(map(len, parts)))
        done = 0
        for part in parts:
            piece = data[done : done + len(part)]
            part[: len(piece)] = piece
            done += len(piece)
    return done


async def outcome(future: asyncio.Future[T]) -> T:
    """Its result; cancelled, it is waited for, and what came of it goes with the CancelledError."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    told: Any = cancelled
    told.result = told.error = None
    if not future.cancelled():
        told.error = future.exception()
        if told.error is None:
            told.result = future.result()
    raise cancelled


async def descriptor(future: asyncio.Future[int]) -> int:
    """A descriptor that is being opened. Cancelled, it is closed as soon as it is there."""

    def close(done: asyncio.Future[int]) -> None:
        if not done.cancelled() and done.exception() is None:
            os.close(done.result())

    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(close)
        raise


ATTRIBUTE = "_noria_files"  # of a loop: its engine, which so ends with it


def current() -> Engine:
    """The running loop's engine. Raises RuntimeError outside a loop."""
    loop = asyncio.get_running_loop()
    engine: Engine | None = getattr(loop, ATTRIBUTE, None)
    if engine is None:
        engine = make(loop)
        if engine.provisional:
            return engine
        setattr(loop, ATTRIBUTE, engine)
        # A loop has no hook for its end but this one: asyncio.run and its like end the
        # asynchronous generators that are still open.
        engine.ending = _until_the_end(engine)
        with contextlib.suppress(StopIteration):
            engine.ending.__anext__().send(None)
    return engine


async def _until_the_end(engine: Engine) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        engine.close()
        if getattr(engine.loop, ATTRIBUTE, None) is engine:
            delattr(engine.loop, ATTRIBUTE)


def make(loop: asyncio.AbstractEventLoop) -> Engine:
    """A ring where the kernel gives one and the loop can watch it, else threads."""
    wanted = os.environ.get("NORIA_FILES", "ring")
    if wanted not in ("ring", "threads"):
        raise ValueError(f"NORIA_FILES={wanted}: it takes ring or threads")
    if wanted == "ring":
        from noria.files.rings import RingEngine

        try:
            return RingEngine(loop)
        except NotImplementedError:
            pass
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                engine = Engine(loop)
                engine.provisional = True
                return engine
    return Engine(loop)
