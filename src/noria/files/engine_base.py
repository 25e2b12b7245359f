"""The interface of the engines that do the I/O of files, and its part that runs in threads."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from noria._core.files.cached_read import CachedReader

T = TypeVar("T")
PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

CURRENT_POSITION = -1  # as an offset: the descriptor's own position
MAX_RW_COUNT = 0x7FFFF000  # bytes that the kernel transfers in one call, read(2)


class Engine(CachedReader, abc.ABC):
    """The file operations of one loop. Every method raises OSError.

    An operation that changes something is never abandoned. If its task is cancelled, the kernel
    cancels it where that is possible, and it is awaited in any case: the CancelledError has the
    result as `result` or the OSError as `error`; both are None if nothing was done.
    """

    name: str
    temporary = False  # used because no descriptor was free for a ring
    finalizer: AsyncGenerator[None, None]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.loop = loop

    # Any function, in a thread of the loop's executor.

    def start_in_thread(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Start a call of a function in a thread; return the future of its result."""
        future = self.loop.run_in_executor(None, function, *arguments)
        if getattr(self.loop, "recorder", None) is not None:
            self.loop.record_file_begin(future)  # type: ignore[attr-defined]
        return future

    async def run_in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in a thread. If cancelled, its result or exception is ignored."""
        future = self.start_in_thread(function, *arguments)
        if future.done():
            # asyncio of Python 3.13.15, 3.14 and later sets the result at once if the thread has
            # ended. A coroutine whose reads all end like this would starve other tasks.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                future.exception()  # retrieved, so that it is not logged
                raise
        return await future

    async def change_in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that changes something in a thread; it is awaited even if cancelled."""
        return await await_outcome(self.start_in_thread(function, *arguments))

    async def open_with(self, opener: Callable[..., int], *arguments: Any) -> int:
        """The descriptor that `opener` opens in a thread."""
        return await await_descriptor(self.start_in_thread(opener, *arguments))

    # Descriptors. An offset is CURRENT_POSITION by default.

    @abc.abstractmethod
    async def open(self, path: PathLike, flags: int, mode: int = 0o666) -> int: ...

    @abc.abstractmethod
    async def close_fd(self, fd: int) -> None: ...

    @abc.abstractmethod
    async def read(self, fd: int, size: int, offset: int = CURRENT_POSITION) -> bytes: ...

    @abc.abstractmethod
    def start_read(self, fd: int, size: int) -> asyncio.Future[bytes]:
        """A read at the current position that outlives the task: its future may be awaited later.

        Cancelling the future cancels the read, if an io_uring ring does it.
        """

    @abc.abstractmethod
    async def readinto(self, fd: int, buffer: Any, offset: int = CURRENT_POSITION) -> int: ...

    @abc.abstractmethod
    async def read_many(self, fd: int, ranges: list[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size)."""

    @abc.abstractmethod
    async def readv(self, fd: int, buffers: Sequence[Any], offset: int = CURRENT_POSITION) -> int:
        """Fill the buffers one after the other; returns the count of bytes.

        Raises BufferError for a read-only buffer, before anything is read.
        """

    @abc.abstractmethod
    async def write(self, fd: int, data: Any, offset: int = CURRENT_POSITION) -> int:
        """Write once; returns the count of bytes, which may be fewer: write(2)."""

    @abc.abstractmethod
    async def writev(self, fd: int, buffers: Sequence[Any], offset: int = CURRENT_POSITION) -> int:
        """Write the buffers one after the other; returns the count of bytes, as of `write`."""

    @abc.abstractmethod
    async def write_and_close(
        self, fd: int, data: Any, offset: int
    ) -> tuple[int, bool, OSError | None]:
        """Write, and close the descriptor if all was written.

        Returns the count of bytes, whether the descriptor is closed, and the error of closing,
        after which it is closed all the same. Raises only if nothing was done.
        """

    @abc.abstractmethod
    async def fsync(self, fd: int, data_only: bool = False) -> None: ...

    # Names, as str or bytes, relative to the working directory.

    @abc.abstractmethod
    async def stat(self, path: str | bytes, follow: bool) -> os.stat_result: ...

    @abc.abstractmethod
    async def unlink(self, path: str | bytes) -> None: ...

    @abc.abstractmethod
    async def rmdir(self, path: str | bytes) -> None: ...

    @abc.abstractmethod
    async def mkdir(self, path: str | bytes, mode: int) -> None: ...

    @abc.abstractmethod
    async def rename(self, source: str | bytes, target: str | bytes) -> None: ...

    @abc.abstractmethod
    def close(self) -> None:
        """Called when the loop ends."""


def add_result(error: asyncio.CancelledError, result: Any) -> None:
    """Set `result` of a CancelledError: what the operation did before it was cancelled."""
    annotated: Any = error
    annotated.result = result


def add_outcome(error: asyncio.CancelledError, result: Any, failure: Any = None) -> None:
    """Set `result` and `error` of a CancelledError: how the operation ended."""
    annotated: Any = error
    annotated.result, annotated.error = result, failure


async def await_outcome(future: asyncio.Future[T]) -> T:
    """Await a future to its end even if cancelled; the CancelledError has its outcome then."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    if future.cancelled():
        add_outcome(cancelled, None)
    elif (failure := future.exception()) is not None:
        add_outcome(cancelled, None, failure)
    else:
        add_outcome(cancelled, future.result())
    raise cancelled


async def await_descriptor(future: asyncio.Future[int]) -> int:
    """The descriptor that is being opened. If cancelled, it is closed as soon as it is open."""

    def close(done: asyncio.Future[int]) -> None:
        if not done.cancelled() and done.exception() is None:
            os.close(done.result())

    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(close)
        raise


async def read_into_buffers(buffers: Sequence[Any], read: Callable[[int], Awaitable[bytes]]) -> int:
    """Read once, as many bytes as the buffers have room for, and copy them into the buffers.

    Returns the count of bytes. Raises BufferError for a read-only buffer, before anything is read.
    """
    with contextlib.ExitStack() as stack:
        views = [stack.enter_context(memoryview(each).cast("B")) for each in buffers]
        if any(view.readonly for view in views):
            raise BufferError("Object is not writable.")
        data = await read(sum(map(len, views)))
        copied = 0
        for view in views:
            piece = data[copied : copied + len(view)]
            view[: len(piece)] = piece
            copied += len(piece)
    return copied
