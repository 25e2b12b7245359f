"""Work on the disk is done in threads; what comes piecewise from there is iterated here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_thread(work: Callable[..., T], *arguments: Any, **options: Any) -> asyncio.Future[T]:
    """Runs it in a thread of the loop's default executor."""
    return asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments, **options))


async def await_uncancelled(work: asyncio.Future[T]) -> T:
    """The result; if this is cancelled, the work goes on, and what it raises is nobody's."""
    work.add_done_callback(consume_exception)
    await asyncio.wait([work])
    return work.result()


def consume_exception(work: asyncio.Future[Any]) -> None:
    """What it raises is looked at by nobody, and that is no fault."""
    if not work.cancelled():
        work.exception()


class ThreadedIterator(AsyncIterator[bytes]):
    """The blocks of `blocks`, each made in a thread; `fd`, if any, is closed at the end.

    Who does not iterate to the end awaits `aclose`.
    """

    def __init__(self, blocks: Iterator[bytes], fd: int = -1):
        self._blocks: Iterator[bytes] | None = blocks
        self._fd = fd
        self._making: asyncio.Future[bytes | None] | None = None

    async def __anext__(self) -> bytes:
        if self._blocks is None:
            raise StopAsyncIteration
        self._making = run_in_thread(self._next)
        try:
            block = await await_uncancelled(self._making)
        except Exception:
            self._end()
            raise
        if block is None:
            self._end()
            raise StopAsyncIteration
        return block

    def _next(self) -> bytes | None:
        """In a thread, which so holds a reference to self."""
        return None if self._blocks is None else next(self._blocks, None)

    async def aclose(self) -> None:
        """Ends it early."""
        if self._making is not None and not self._making.done():
            await asyncio.wait([self._making])
        self._end()

    def _end(self) -> None:
        blocks, self._blocks = self._blocks, None
        close = getattr(blocks, "close", None)
        if close is not None:
            close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self._end()
