"""sendfile(2) on a non-blocking socket, piece by piece.

One call goes on for as long as the peer takes what is sent: a fast reader of a large file would
have the loop for itself. So a call sends a piece, and then others have their turn.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
from asyncio import AbstractEventLoop, SendfileNotAvailableError, sleep
from typing import Any

TURN = 2 << 20  # bytes that all together send in one turn of the loop, about
LEAST = 128 * 1024  # bytes of one piece, however many send


class Pieces:
    """The sendfile of one loop."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._sending = 0

    async def send(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
        """Sends from `offset` on, `count` bytes or all, and returns how many. The file stands
        behind them afterwards.

        Raises SendfileNotAvailableError for what is no regular file and where the kernel cannot,
        ConnectionError, OSError.
        """
        try:
            fileno = file.fileno()
            size = os.fstat(fileno).st_size
        except (AttributeError, io.UnsupportedOperation, OSError):
            raise SendfileNotAvailableError("not a regular file") from None
        left = count or size
        if not left:
            return 0
        sent = 0
        self._sending += 1
        corked = left > LEAST and cork(sock)
        try:
            while left > 0:
                piece = min(max(TURN // self._sending, LEAST), left)
                try:
                    done = os.sendfile(sock.fileno(), fileno, offset + sent, piece)
                except (BlockingIOError, InterruptedError):
                    await self._writable(sock)
                    continue
                if not done:
                    break  # the file ends here
                sent += done
                if count:
                    left -= done
                if left > 0:
                    await sleep(0)
        except ConnectionError:
            raise
        except OSError as error:
            if error.errno == errno.ENOTCONN:  # it was closed meanwhile
                raise ConnectionError(errno.ENOTCONN, "socket is not connected") from error
            if not sent:
                raise SendfileNotAvailableError("os.sendfile call failed") from error
            raise
        finally:
            self._sending -= 1
            if corked:
                uncork(sock)
            if sent:
                os.lseek(fileno, offset + sent, os.SEEK_SET)
        return sent

    async def _writable(self, sock: socket.socket) -> None:
        ready = self._loop.create_future()
        fd = sock.fileno()
        self._loop.add_writer(fd, _done, ready)
        try:
            await ready
        finally:
            if sock.fileno() == fd:  # else the number may be another's by now
                self._loop.remove_writer(fd)


def cork(sock: Any) -> bool:
    """Has the kernel send whole segments only, tcp(7), whatever comes: a third faster. Whether
    `uncork` is to be called; not if it is so already, or for what is no TCP."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK):
            return False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    except OSError:  # no TCP, or no longer connected
        return False
    return True


def uncork(sock: Any) -> None:
    """What is left goes out. It may be closed."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def _done(future: Any) -> None:
    if not future.done():
        future.set_result(None)
