"""`sendfile` and `sock_sendfile`: sendfile(2) on a non-blocking socket, in chunks.

One sendfile(2) continues for as long as the peer receives: a fast reader of a large file would
block the loop. So each call sends one chunk, and other callbacks run before the next.

A transport that is closed while its sendfile waits for the socket ends the wait with an error. For
a plain socket no event reports that its user has closed it (epoll drops the registration), so such
a wait ends every OPEN_CHECK_SECONDS and the socket is checked.
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

# Not from `os`: tools that look for blocking calls (blockbuster) replace the functions there, maybe
# before this module is imported, and allow this one to asyncio only. The socket does not block.
from posix import sendfile
from typing import Any

from noria.aio.sockets import SocketMethods
from noria.net.socket_options import INET_FAMILIES

# about the most that all files together send in one turn of the loop
BYTES_PER_TURN = 2 << 20

# the minimum size of one sendfile(2), however many files are sent
MIN_CHUNK_BYTES = 128 * 1024

# between two checks whether a socket that is not writable is still open
OPEN_CHECK_SECONDS = 1.0

# read at a time where sendfile(2) cannot be used
READ_BYTES = 256 * 1024


class SendfileMethods(SocketMethods):
    """The loop's methods that send files."""

    __slots__ = ()

    _file_sender: FileSender | None

    @property
    def file_sender(self) -> FileSender:
        """The object that sends this loop's files."""
        if self._file_sender is None:
            self._file_sender = FileSender(self)
        return self._file_sender

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
        RuntimeError if the transport is closing or is not a stream; ConnectionError if the
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
        return await self._send_chunks(transport, file, offset, count)

    # asyncio's name: tests of programs replace the method to get the fallback.
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
            # On io_uring a transport's socket may be blocking.
            os.set_blocking(sock.fileno(), False)
            return await self.file_sender.send(sock, file, offset, count, connection)
        except ConnectionError as error:
            connection.abort_with(error)
            raise
        finally:
            connection.end_sendfile()
            if reading:
                transport.resume_reading()

    async def _send_chunks(self, transport: Any, file: Any, offset: int, count: int | None) -> int:
        protocol = _SendfileProtocol(self, transport)
        try:
            async with contextlib.aclosing(_read_chunks(self, file, offset, count)) as chunks:
                sent = 0
                async for chunk in chunks:
                    # A copy: the transport may keep it, and the buffer is reused.
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
        self.check_socket(sock)
        check_sendfile(sock, file, offset, count)
        try:
            return await self.file_sender.send(sock, file, offset, count)
        except SendfileNotAvailableError:
            if not fallback:
                raise
        sent = 0
        async with contextlib.aclosing(_read_chunks(self, file, offset, count)) as chunks:
            async for chunk in chunks:
                await self.sock_sendall(sock, chunk)
                sent += len(chunk)
        return sent


def check_sendfile(sock: Any, file: Any, offset: Any, count: Any) -> None:
    """Raise TypeError or ValueError for invalid arguments of sendfile."""
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


async def _read_chunks(
    loop: asyncio.AbstractEventLoop, file: Any, offset: int, count: int | None
) -> AsyncGenerator[memoryview, None]:
    """Read the file from `offset` in a worker thread; leave its position after the last chunk."""
    seekable = hasattr(file, "seek")
    if seekable:
        file.seek(offset)
    buffer = memoryview(bytearray(min(count or READ_BYTES, READ_BYTES)))
    done = 0
    try:
        while count is None or done < count:
            target = buffer if count is None else buffer[: count - done]
            n = await loop.run_in_executor(None, file.readinto, target)
            if not n:
                break
            yield target[:n]
            done += n
    finally:
        if done and seekable:
            file.seek(offset + done)


class _SendfileProtocol(asyncio.Protocol):
    """Replaces a transport's protocol while a file is sent; reading is paused meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop = loop
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._was_reading = transport.is_reading()
        self._was_full = bool(getattr(transport, "_protocol_paused", False))
        self._drain_waiter: Future[None] | None = loop.create_future() if self._was_full else None
        transport.pause_reading()
        transport.set_protocol(self)

    async def drain(self) -> None:
        """Wait until the write buffer is below its limit.

        Raises ConnectionError if the connection ends.
        """
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._drain_waiter is not None:
            await self._drain_waiter

    def restore(self) -> None:
        """Restore the transport's protocol, and report a change of its flow control."""
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        is_full = self._drain_waiter is not None and not self._drain_waiter.done()
        if self._drain_waiter is not None:
            self._drain_waiter.cancel()
        if self._transport.is_closing() or is_full == self._was_full:
            return
        if is_full:
            self._protocol.pause_writing()
        else:
            self._protocol.resume_writing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raise RuntimeError("Invalid state: connection should have been established already.")

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._drain_waiter is None:
            self._drain_waiter = self._loop.create_future()

    def resume_writing(self) -> None:
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        raise RuntimeError("Invalid state: reading should be paused")

    def eof_received(self) -> None:
        raise RuntimeError("Invalid state: reading should be paused")


class FileSender:
    """Sends the files of one loop, and divides the bytes of a turn among them."""

    def __init__(self, loop: SocketMethods) -> None:
        self._loop = loop
        self._active = 0

    async def send(
        self,
        sock: socket.socket,
        file: Any,
        offset: int,
        count: int | None,
        connection: Any = None,
    ) -> int:
        """Send `count` bytes from `offset`, by default all; return the number of bytes sent.

        Afterwards the file's position is after the last of them. `connection` is the channel of
        the socket's transport, if it has one. Raises SendfileNotAvailableError if the file is not
        regular or the kernel refuses; ConnectionError, also if the socket or the transport is
        closed meanwhile; OSError.
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
        self._active += 1
        corked = left > MIN_CHUNK_BYTES and cork(sock)
        fd = sock.fileno()
        try:
            while left > 0:
                if sock.fileno() != fd or (connection is not None and connection.is_closing()):
                    raise _closed_error()
                chunk = min(max(BYTES_PER_TURN // self._active, MIN_CHUNK_BYTES), left)
                try:
                    done = sendfile(fd, fileno, offset + sent, chunk)
                except OSError as error:
                    self._loop.count_send(fd, -(error.errno or errno.EIO))
                    if isinstance(error, InterruptedError):
                        continue
                    if not isinstance(error, BlockingIOError):
                        raise
                    if connection is not None:
                        await connection.wait_writable()
                    else:
                        await self._wait_writable(sock)
                    continue
                self._loop.count_send(fd, done)
                if not done:
                    # end of file
                    break
                sent += done
                if count:
                    left -= done
                if left > 0:
                    await sleep(0)
        except ConnectionError:
            raise
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                # The connection was closed meanwhile.
                raise ConnectionError(errno.ENOTCONN, "socket is not connected") from error
            if not sent:
                raise SendfileNotAvailableError("os.sendfile call failed") from error
            raise
        finally:
            self._active -= 1
            if corked:
                uncork(sock)
            # The position is updated even where nothing was sent, as documented for loop.sendfile.
            try:
                os.lseek(fileno, offset + sent, os.SEEK_SET)
            except OSError:
                if sent:
                    raise
        return sent

    async def _wait_writable(self, sock: socket.socket) -> None:
        """Wait until the socket is writable, or OPEN_CHECK_SECONDS."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_CHECK_SECONDS):
                await self._loop.wait_writable(sock)


def cork(sock: Any) -> bool:
    """Set TCP_CORK (tcp(7)): the kernel sends full segments only, which makes sendfile faster.

    Return whether the caller has to call `uncork`; False if the option was set already or the
    socket is not TCP.
    """
    if sock.family not in INET_FAMILIES:
        return False
    try:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK):
            return False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    except OSError:
        # not TCP, or no longer connected
        return False
    return True


def uncork(sock: Any) -> None:
    """Clear TCP_CORK, so that the kernel sends the last segment. The socket may be closed."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def _closed_error() -> ConnectionError:
    return ConnectionAbortedError(errno.ECONNABORTED, "the socket was closed during sendfile")
