"""sendfile(2) on a non-blocking socket, piece by piece.

One call goes on for as long as the peer takes what is sent: a fast reader of a large file would
have the loop for itself. So a call sends a piece, and then others have their turn.

A transport that ends while its sendfile waits for room fails the wait. The kernel does not report
that a plain socket was closed by its user (epoll drops the registration), so a wait on one ends
once a second and the socket is looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import socket
from asyncio import Future, SendfileNotAvailableError, sleep
from collections.abc import AsyncGenerator

# By name: tools that look for blocking calls (blockbuster) replace the functions of the module
# `os`, and allow this one to asyncio only. The socket does not block.
from os import sendfile
from typing import TYPE_CHECKING, Any, cast

from noria.aio.sockets import INET_FAMILIES

if TYPE_CHECKING:
    from noria.aio.loop import EventLoop

TURN = 2 << 20  # bytes that all together send in one turn of the loop, about
LEAST = 128 * 1024  # bytes of one piece, however many send
CHECK_SECONDS = 1.0  # between two checks whether a socket that has no room is still open
READ_SIZE = 256 * 1024  # bytes read at a time where sendfile(2) cannot be used


class SendfileMethods(asyncio.AbstractEventLoop):
    """`AbstractEventLoop.sendfile` and `sock_sendfile`."""

    __slots__ = ()

    async def sendfile(
        self,
        transport: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool = True,
    ) -> int:
        """Send a file over a transport; return the bytes sent. As AbstractEventLoop.sendfile.

        Raises SendfileNotAvailableError if sendfile(2) cannot be used and `fallback` is false;
        RuntimeError for a transport that is closing or is no stream; ConnectionError if the
        connection ends first.
        """
        if transport.is_closing():
            raise RuntimeError("Transport is closing")
        from noria.aio.transports import SocketTransport

        mode = getattr(getattr(transport, "_sendfile_compatible", None), "name", "UNSUPPORTED")
        if mode == "UNSUPPORTED":
            raise RuntimeError(f"sendfile is not supported for transport {transport!r}")
        if isinstance(transport, SocketTransport):
            try:
                return await self._sendfile_native(transport, file, offset, count)
            except SendfileNotAvailableError:
                if not fallback:
                    raise
        elif not fallback:
            raise RuntimeError(
                f"fallback is disabled and native sendfile is not supported for transport "
                f"{transport!r}"
            )
        return await self._send_by_reading(transport, file, offset, count)

    # asyncio's name, as tests of programs replace it to have the fallback.
    async def _sendfile_native(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        connection = transport._connection
        check_sendfile(transport.get_extra_info("socket"), file, offset, count)
        sent_before = connection.begin_sendfile()
        reading = transport.is_reading()
        transport.pause_reading()
        try:
            await sent_before
            sock = transport.get_extra_info("socket")
            os.set_blocking(sock.fileno(), False)  # on io_uring it may be a blocking one
            return await cast("EventLoop", self).pieces.send(sock, file, offset, count, connection)
        except ConnectionError as error:
            connection.abort_with(error)
            raise
        finally:
            connection.end_sendfile()
            if reading:
                transport.resume_reading()

    async def _send_by_reading(
        self, transport: Any, file: Any, offset: int, count: int | None
    ) -> int:
        protocol = _SendingProtocol(self, transport)
        try:
            async with contextlib.aclosing(_chunks(self, file, offset, count)) as chunks:
                sent = 0
                async for chunk in chunks:
                    # The transport may keep it, and the buffer is used again.
                    transport.write(bytes(chunk))
                    await protocol.drain()
                    sent += len(chunk)
                return sent
        finally:
            protocol.restore()

    async def sock_sendfile(
        self,
        sock: Any,
        file: Any,
        offset: int = 0,
        count: int | None = None,
        *,
        fallback: bool | None = True,
    ) -> int:
        """Send a file over a socket; return the bytes sent. As AbstractEventLoop.sock_sendfile.

        Raises SendfileNotAvailableError if sendfile(2) cannot be used and `fallback` is false,
        and OSError.
        """
        loop = cast("EventLoop", self)
        loop.check_socket(sock)
        check_sendfile(sock, file, offset, count)
        try:
            return await loop.pieces.send(sock, file, offset, count)
        except SendfileNotAvailableError:
            if not fallback:
                raise
        sent = 0
        async with contextlib.aclosing(_chunks(self, file, offset, count)) as chunks:
            async for chunk in chunks:
                await self.sock_sendall(sock, chunk)
                sent += len(chunk)
        return sent


def check_sendfile(sock: Any, file: Any, offset: Any, count: Any) -> None:
    """Raise TypeError or ValueError for arguments that sendfile cannot have."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
    if offset < 0:
        raise ValueError(f"offset must be a non-negative integer (got {offset!r})")


async def _chunks(
    loop: asyncio.AbstractEventLoop, file: Any, offset: int, count: int | None
) -> AsyncGenerator[memoryview, None]:
    """What the file has from `offset` on, read in a thread; the position is left behind it."""
    seekable = hasattr(file, "seek")
    if seekable:
        file.seek(offset)
    buffer = memoryview(bytearray(min(count or READ_SIZE, READ_SIZE)))
    done = 0
    try:
        while count is None or done < count:
            room = buffer if count is None else buffer[: count - done]
            n = await loop.run_in_executor(None, file.readinto, room)
            if not n:
                break
            yield room[:n]
            done += n
    finally:
        if done and seekable:
            file.seek(offset + done)


class _SendingProtocol(asyncio.Protocol):
    """Stands in the place of a transport's protocol while a file is sent.

    Reading is paused meanwhile.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop = loop
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._was_reading = transport.is_reading()
        self._was_full = bool(getattr(transport, "_protocol_paused", False))
        self._room: Future[None] | None = loop.create_future() if self._was_full else None
        transport.pause_reading()
        transport.set_protocol(self)

    async def drain(self) -> None:
        """Wait for room in the write buffer; raises ConnectionError if the connection ends."""
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._room is not None:
            await self._room

    def restore(self) -> None:
        """Give the transport its protocol back."""
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        is_full = self._room is not None and not self._room.done()
        if self._room is not None:
            self._room.cancel()
        if self._transport.is_closing() or is_full == self._was_full:
            return
        if is_full:
            self._protocol.pause_writing()
        else:
            self._protocol.resume_writing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise RuntimeError("Invalid state: connection should have been established already.")

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> None:
        raise RuntimeError("Invalid state: reading should be paused")


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
                    done = sendfile(fd, fileno, offset + sent, piece)
                except InterruptedError:
                    continue
                except BlockingIOError:
                    if connection is not None:
                        await connection.wait_writable()
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):
                await self._loop.wait_writable(sock)


def cork(sock: Any) -> bool:
    """Has the kernel send whole segments only, tcp(7), whatever comes: a third faster. Whether
    `uncork` is to be called; not if it is so already, or for what is no TCP."""
    if sock.family not in INET_FAMILIES:
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


def _closed() -> ConnectionError:
    return ConnectionAbortedError(errno.ECONNABORTED, "the socket was closed during sendfile")
