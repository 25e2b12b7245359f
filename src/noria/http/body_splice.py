"""The rest of a large body on its way from the socket into a file, past this process's memory.

A thread moves a piece and waits for the client only for a moment, and what comes of a slow one is
left to gather: so slow clients do not have all threads. While nothing comes, the loop waits.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from noria._core.files.splice import Splice, Why
from noria.http.worker_threads import await_uncancelled, run_in_thread

if TYPE_CHECKING:
    from noria.http.request_body import RequestBody

PIECE = 8 * 1024 * 1024  # bytes after which the other uploads have their turn
PATIENCE = 2  # milliseconds that a thread waits for the client
LITTLE = 256 * 1024  # bytes: who sends no more in a thread's turn is not worth one at once
PAUSE = 0.02  # seconds until the next, then

# Move(splice, socket, most) moves in a thread, and gives (bytes, why it ended), as Splice.move
Move = Callable[[Splice, int, int], tuple[int, int]]


class Lender(Protocol):
    """A connection whose body another receives."""

    left: int  # bytes that are still to come

    def moved(self, count: int) -> None: ...
    def lose_track(self) -> None: ...
    def take_back(self) -> None: ...


class Mover:
    """Receives from the socket `fd` in the place of `lender`. `run` is to be awaited once.

    Raises OSError where there are no descriptors left.
    """

    def __init__(self, fd: int, body: RequestBody, lender: Lender) -> None:
        self._body = body
        self._lender = lender
        self._splice = Splice(PATIENCE)
        try:
            # A descriptor of its own: the connection may be closed while a thread is at it.
            self._fd = os.dup(fd)
        except OSError:
            self._splice.close()
            raise
        self._blocking = os.get_blocking(self._fd)
        os.set_blocking(self._fd, False)
        self._work: asyncio.Future[tuple[int, int]] | None = None

    async def run(self, move: Move, before: asyncio.Future[None]) -> None:
        """Moves until the body is whole, or until it has to be received as before; not until
        `before` is done. Raises what the body failed with, and what `move` and `before` raise.
        """
        try:
            self._body.moving = time.monotonic()  # until the disk has that
            await await_uncancelled(before)
            while self._lender.left:
                self._body.check()
                count, why = await self._moved(move)
                self._lender.moved(count)
                if why == Why.REFUSED:
                    self._body.lend = None
                    return
                if why == Why.ENDED:
                    self._body.fail(ConnectionResetError("the body ended too soon"))
                elif why == Why.WAITS:
                    if count < LITTLE:
                        await asyncio.sleep(PAUSE)
                    await self._body.arrival(self._fd)
        finally:
            await self._end()

    async def _moved(self, move: Move) -> tuple[int, int]:
        self._work = run_in_thread(move, self._splice, self._fd, min(self._lender.left, PIECE))
        self._body.moving = time.monotonic()
        try:
            count, why = await await_uncancelled(self._work)
        except Exception:  # nobody knows how much had come out of the socket
            self._lender.lose_track()
            raise
        self._body.moving = 0.0
        return count, why

    async def _end(self) -> None:
        """Not before a thread that is at it has ended: who waits for this closes the file then."""
        work = self._work
        try:
            if work is not None and not work.done():  # it was cancelled meanwhile
                await asyncio.wait([work])
        finally:
            if work is None or work.done():
                self._let_go()
            else:
                work.add_done_callback(lambda _: self._let_go())

    def _let_go(self) -> None:
        self._body.moving = 0.0
        self._splice.close()
        os.set_blocking(self._fd, self._blocking)
        os.close(self._fd)
        self._lender.take_back()
