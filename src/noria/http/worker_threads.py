"""Running blocking calls and iterators in the loop's worker threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_thread(function: Callable[..., T], *arguments: Any, **options: Any) -> asyncio.Future[T]:
    """Call a function in a thread of the loop's default executor."""
    return asyncio.get_running_loop().run_in_executor(
        None, partial(function, *arguments, **options)
    )


async def await_uncancelled(work: asyncio.Future[T]) -> T:
    """Await `work` without cancelling it.

    If the caller is cancelled, the work continues and its exception is ignored.
    """
    work.add_done_callback(consume_exception)
    await asyncio.wait([work])
    return work.result()


def consume_exception(work: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future, so that asyncio does not log it."""
    if not work.cancelled():
        work.exception()


class ThreadedIterator(AsyncIterator[bytes]):
    """Iterates over `blocks` in worker threads, and closes the descriptor `fd`, if any, at the end.

    Await `aclose` if it is not iterated to its end.
    """

    def __init__(self, blocks: Iterator[bytes], fd: int = -1):
        self._blocks: Iterator[bytes] | None = blocks
        self._fd = fd
        self._pending: asyncio.Future[bytes | None] | None = None

    async def __anext__(self) -> bytes:
        if self._blocks is None:
            raise StopAsyncIteration
        self._pending = run_in_thread(self._next)
        try:
            block = await await_uncancelled(self._pending)
        except Exception:
            self._close()
            raise
        if block is None:
            self._close()
            raise StopAsyncIteration
        return block

    def _next(self) -> bytes | None:
        # The thread holds a reference to self through this method, so `__del__` cannot run
        # while it works.
        return None if self._blocks is None else next(self._blocks, None)

    async def aclose(self) -> None:
        """Wait for the block that is being made, then close."""
        if self._pending is not None and not self._pending.done():
            await asyncio.wait([self._pending])
        self._close()

    def _close(self) -> None:
        blocks, self._blocks = self._blocks, None
        close = getattr(blocks, "close", None)
        if close is not None:
            close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self._close()
