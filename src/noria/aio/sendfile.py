"""sendfile(2) on a non-blocking socket, piece by piece.

One call goes on for as long as the peer takes what is sent: a fast reader of a large file would
have the loop for itself. So a call sends a piece, and then others have their turn.

A transport that ends while its sendfile waits for room fails the wait. The kernel does not report
that a plain socket was closed by its user (epoll drops the registration), so a wait on one ends
once a second and the socket is looked at again.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
from asyncio import Future, SendfileNotAvailableError, sleep
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noria.aio.loop import EventLoop

TURN = 2 << 20  # bytes that all together send in one turn of the loop, about
LEAST = 128 * 1024  # bytes of one piece, however many send
CHECK_SECONDS = 1.0  # between two checks whether a socket that has no room is still open


class Pieces:
    """The sendfile of one loop."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._sending = 0

    async def send(
        self,
        sock: socket.socket,
        file: Any,
        offset: int,
        count: int | None,
        connection: Any = None,
    ) -> int:
        """Sends from `offset` on, `count` bytes or all, and returns how many. The file stands
        behind them afterwards.

        `connection`: that of the transport which the socket belongs to, if it belongs to one.
        Raises SendfileNotAvailableError for what is no regular file and where the kernel cannot,
        ConnectionError, also if the socket or the transport is closed meanwhile, OSError.
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
        fd = sock.fileno()
        try:
            while left > 0:
                if sock.fileno() != fd or (connection is not None and connection.is_closing()):
                    raise _closed()
                piece = min(max(TURN // self._sending, LEAST), left)
                try:
                    done = os.sendfile(fd, fileno, offset + sent, piece)
                except InterruptedError:
                    continue
                except BlockingIOError:
                    if connection is not None:
                        await connection.room()
                    else:
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
            # The position is updated even where nothing was sent, as documented for loop.sendfile.
            try:
                os.lseek(fileno, offset + sent, os.SEEK_SET)
            except OSError:
                if sent:
                    raise
        return sent

    async def _writable(self, sock: socket.socket) -> None:
        """Waits until there is room, or CHECK_SECONDS."""
        loop = self._loop
        ready = loop.create_future()
        fd = sock.fileno()
        loop._ensure_fd_no_transport(fd)
        handle = loop._add_writer(fd, _done, ready)
        timer = loop.call_later(CHECK_SECONDS, _done, ready)
        try:
            await ready
        finally:
            timer.cancel()
            # It is cancelled already if another writer has taken its place.
            if not handle.cancelled():
                loop._remove_writer(fd)


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


def _done(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _closed() -> ConnectionError:
    return ConnectionAbortedError(errno.ECONNABORTED, "the socket was closed during sendfile")
