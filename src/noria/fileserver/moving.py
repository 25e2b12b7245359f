"""The rest of a large body on its way from the socket into a file, past this process's memory.

A thread moves a piece and waits for the client only for moments, so that slow clients do not have
all threads; while nothing comes, the loop waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from noria._core.files.splice import ENDED, REFUSED, WAITS, Splice
from noria.fileserver.offloop import off, through

if TYPE_CHECKING:
    from noria.fileserver.body import Body

PIECE = 8 * 1024 * 1024  # bytes after which the other uploads have their turn
PATIENCE = 5  # milliseconds that a thread waits for the client

# Move(splice, socket, most) moves in a thread, and gives (bytes, why it ended), as Splice.move
Move = Callable[[Splice, int, int], tuple[int, int]]


class Lender(Protocol):
    """A connection whose body another receives."""

    left: int  # bytes that are still to come

    def moved(self, count: int) -> None: ...
    def take_back(self) -> None: ...


class Mover:
    """Receives from the socket `fd` in the place of `lender`. `run` is to be awaited once.

    Raises OSError where there are no descriptors left.
    """

    def __init__(self, fd: int, body: Body, lender: Lender) -> None:
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
            await through(before)
            while self._lender.left:
                self._body.check()
                count, why = await self._moved(move)
                self._lender.moved(count)
                if why == REFUSED:
                    return
                if why == ENDED:
                    self._body.fail(ConnectionResetError("the body ended too soon"))
                elif why == WAITS:
                    await self._body.arrival(self._fd)
        finally:
            if self._work is None or self._work.done():
                self._end()
            else:  # it was cancelled, and a thread is at it
                self._work.add_done_callback(lambda _: self._end())

    async def _moved(self, move: Move) -> tuple[int, int]:
        self._work = off(move, self._splice, self._fd, min(self._lender.left, PIECE))
        self._body.moving = True
        count, why = await through(self._work)
        self._body.moving = False
        return count, why

    def _end(self) -> None:
        self._body.moving = False
        self._splice.close()
        os.set_blocking(self._fd, self._blocking)
        os.close(self._fd)
        self._lender.take_back()
