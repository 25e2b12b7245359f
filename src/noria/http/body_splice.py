"""Splicing the rest of a large body from the socket into a file, past this process's memory.

A worker thread splices and waits for the client only briefly; what a slow client sends is left to
accumulate in the socket, so slow clients do not occupy all threads. The loop watches the socket
while nothing arrives.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Protocol

from noria._core.files.splice import Splice, StopReason
from noria.http.request_body import RequestBody, SpliceFunction
from noria.http.worker_threads import await_uncancelled, run_in_thread

# Bytes that one call splices before other uploads get the thread.
MAX_SPLICE_BYTES = 8 * 1024 * 1024
# How long a thread waits for the client.
SPLICE_WAIT_MS = 2
# If one call spliced fewer bytes, the next one begins after SLOW_CLIENT_PAUSE_SECONDS.
MIN_BYTES_WITHOUT_PAUSE = 256 * 1024
SLOW_CLIENT_PAUSE_SECONDS = 0.02


class SplicedConnection(Protocol):
    """The connection whose body is spliced."""

    remaining: int  # bytes of the body that have not arrived

    def count_spliced(self, count: int) -> None:
        """Account for `count` bytes of the body."""

    def disable_keep_alive(self) -> None:
        """Close after this response: it is unknown where the body ends."""

    def end_splice(self) -> None:
        """Resume reading from the socket."""


class BodySplicer:
    """Receives from the socket `fd` in place of `connection`.

    `run` is awaited once. Raises OSError if the process has no descriptors left.
    """

    def __init__(self, fd: int, body: RequestBody, connection: SplicedConnection) -> None:
        self._body = body
        self._connection = connection
        self._splice = Splice(SPLICE_WAIT_MS)
        try:
            # The connection may be closed while a thread uses the descriptor.
            self._fd = os.dup(fd)
        except OSError:
            self._splice.close()
            raise
        self._was_blocking = os.get_blocking(self._fd)
        os.set_blocking(self._fd, False)
        self._work: asyncio.Future[tuple[int, int]] | None = None

    async def run(self, splice_to_file: SpliceFunction, before: asyncio.Future[None]) -> None:
        """Wait for `before`, then splice until the body is complete or can no longer be spliced.

        Raises the exceptions of the body, of `splice_to_file` and of `before`.
        """
        try:
            # A wait for `before` is a wait for the disk.
            self._body.splicing_since = time.monotonic()
            await await_uncancelled(before)
            while self._connection.remaining:
                self._body.raise_if_failed()
                count, why = await self._splice_once(splice_to_file)
                self._connection.count_spliced(count)
                if why == StopReason.UNSUPPORTED:
                    self._body.start_splice = None
                    return
                if why == StopReason.EOF:
                    self._body.fail(ConnectionResetError("the client closed before the body's end"))
                elif why == StopReason.WOULD_BLOCK:
                    if count < MIN_BYTES_WITHOUT_PAUSE:
                        await asyncio.sleep(SLOW_CLIENT_PAUSE_SECONDS)
                    await self._body.wait_readable(self._fd)
        finally:
            await self._finish()

    async def _splice_once(self, splice_to_file: SpliceFunction) -> tuple[int, int]:
        size = min(self._connection.remaining, MAX_SPLICE_BYTES)
        self._work = run_in_thread(splice_to_file, self._splice, self._fd, size)
        self._body.splicing_since = time.monotonic()
        try:
            count, why = await await_uncancelled(self._work)
        except Exception:
            # It is unknown how many bytes had left the socket.
            self._connection.disable_keep_alive()
            raise
        self._body.splicing_since = 0.0
        return count, why

    async def _finish(self) -> None:
        """Wait until no thread uses the descriptors: the caller closes the file afterwards."""
        work = self._work
        try:
            # If `run` was cancelled, the thread may still be at work.
            if work is not None and not work.done():
                await asyncio.wait([work])
        finally:
            if work is None or work.done():
                self._release()
            else:
                work.add_done_callback(lambda _: self._release())

    def _release(self) -> None:
        self._body.splicing_since = 0.0
        self._splice.close()
        os.set_blocking(self._fd, self._was_blocking)
        os.close(self._fd)
        self._connection.end_splice()
