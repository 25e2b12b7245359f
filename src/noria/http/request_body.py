"""The body of a request as it arrives: an asynchronous iterator with back-pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from noria._core.files.splice import Splice

# Chunks up to this size are joined: else there would be more objects than bytes.
JOIN_MAX_BYTES = 4096

# splice_to_file(splice, socket's descriptor, bytes at most), called in a worker thread. Returns the
# bytes and why it ended, as Splice.move.
SpliceFunction = Callable[[Splice, int, int], tuple[int, int]]


class Splicer(Protocol):
    """Receives the rest of a body and splices it into a file."""

    async def run(self, splice_to_file: SpliceFunction, before: asyncio.Future[None]) -> None: ...


class RequestBody:
    """The chunks of a body, in order.

    Iterating raises the exception that `fail` was called with: ConnectionResetError if the client
    closed the connection, HTTPException if it was too slow.

    `on_read` is called after each chunk, `on_first_wait` before the first wait. `start_splice`, if
    not None, returns a `Splicer` for the rest of the body, or None if that is not possible now.
    """

    __slots__ = (
        "_error",
        "_waiter",
        "chunks",
        "complete",
        "on_first_wait",
        "on_read",
        "received",
        "splicing_since",
        "start_splice",
        "unread",
    )

    def __init__(self, on_read: Callable[[], object]) -> None:
        self.chunks: deque[bytes] = deque()
        # Bytes in `chunks`.
        self.unread = 0
        self.received = 0
        self.complete = False
        # When a worker thread began to splice, by time.monotonic(); 0 if none does.
        self.splicing_since = 0.0
        self.start_splice: Callable[[], Splicer | None] | None = None
        self.on_first_wait: Callable[[], object] | None = None
        self.on_read = on_read
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, chunk: bytes) -> None:
        """Append a chunk that arrived."""
        chunks = self.chunks
        if chunks and len(chunks[-1]) + len(chunk) <= JOIN_MAX_BYTES:
            chunks[-1] += chunk
        else:
            chunks.append(chunk)
        self.unread += len(chunk)
        self.received += len(chunk)
        self._wake()

    def finish(self) -> None:
        """Mark the body as complete."""
        self.complete = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Raise `error` in the reader once it has read the chunks that arrived."""
        if not self.complete and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def raise_if_failed(self) -> None:
        """Raise the exception that `fail` was called with."""
        if self._error is not None:
            raise self._error

    def detach(self, arrived: list[bytes]) -> Splicer | None:
        """A `Splicer` for the rest of the body, or None where the rest cannot be spliced.

        The unread chunks are moved to `arrived`: they come before what is spliced.
        """
        if self.start_splice is None or self._error is not None:
            return None
        splicer = self.start_splice()
        if splicer is not None:
            arrived += self.chunks
            self.chunks.clear()
            self.unread = 0
        return splicer

    async def wait_readable(self, fd: int) -> None:
        """Wait until the socket `fd` is readable or the body has failed."""
        self.raise_if_failed()
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
            if self.complete:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            if self.on_first_wait is not None:
                on_first_wait, self.on_first_wait = self.on_first_wait, None
                on_first_wait()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self.chunks.popleft()
        self.unread -= len(chunk)
        self.on_read()
        return chunk
