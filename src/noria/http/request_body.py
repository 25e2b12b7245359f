"""A request's body as it arrives: an asynchronous iterator that holds the client back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from noria.http.body_splice import Mover

TINY = 4096  # bytes up to which chunks are joined


class RequestBody:
    """Chunks of the body, in order.

    Iterating raises what `fail` was given: ConnectionResetError if the client went away,
    HTTPException if it was too slow. `on_start` is called before the first wait, `on_read` after
    each chunk.
    """

    __slots__ = (
        "_error",
        "_waiter",
        "chunks",
        "held",
        "lend",
        "moving",
        "on_read",
        "on_start",
        "received",
        "whole",
    )

    def __init__(self, on_read: Callable[[], object]) -> None:
        self.chunks: deque[bytes] = deque()
        self.held = 0  # bytes that arrived and were not read
        self.received = 0
        self.whole = False
        self.moving = 0.0  # since when a thread is at it, time.monotonic(); 0 if none is
        self.lend: Callable[[], Mover | None] | None = None  # what comes next, past this process
        self.on_start: Callable[[], object] | None = None
        self.on_read = on_read
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, chunk: bytes) -> None:
        chunks = self.chunks
        # Of chunks of a few bytes each there would be more objects than bytes.
        if chunks and len(chunks[-1]) + len(chunk) <= TINY:
            chunks[-1] += chunk
        else:
            chunks.append(chunk)
        self.held += len(chunk)
        self.received += len(chunk)
        self._wake()

    def finish(self) -> None:
        self.whole = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        """What arrived can still be read; then `error` is raised."""
        if not self.whole and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def check(self) -> None:
        """Raises what `fail` was given."""
        if self._error is not None:
            raise self._error

    def mover(self, arrived: list[bytes]) -> Mover | None:
        """Who moves what comes next, where that is possible now: what came before it is `arrived`
        then."""
        mover = self.lend() if self.lend is not None and self._error is None else None
        if mover is not None:
            arrived += self.chunks
            self.chunks.clear()
            self.held = 0
        return mover

    async def arrival(self, fd: int) -> None:
        """Waits until there is something to be received from `fd`, or this has failed."""
        self.check()
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        loop.add_reader(fd, self._wake)
        try:
            await self._waiter
        finally:
            loop.remove_reader(fd)
            self._waiter = None

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes:
        while not self.chunks:
            if self.whole:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            if self.on_start is not None:
                start, self.on_start = self.on_start, None
                start()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self.chunks.popleft()
        self.held -= len(chunk)
        self.on_read()
        return chunk
