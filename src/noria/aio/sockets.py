"""The `sock_*` methods: operations on a non-blocking socket of the caller.

`Core` (compiled) has sock_recv and sock_sendall, which call this module for unusual sockets.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from noria.aio.asyncio_base import LoopMethods
from noria.net.addresses import resolve
from noria.net.socket_options import INET_FAMILIES

T = TypeVar("T")


def refuse_tls_socket(sock: Any) -> None:
    """Raise TypeError for an ssl.SSLSocket, whose data is not what the descriptor transfers."""
    # If the module is not imported, no such socket exists.
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


class SocketMethods(LoopMethods):
    """`AbstractEventLoop.sock_*`: try the call, and wait for readiness while it would block."""

    __slots__ = ()

    def check_socket(self, sock: Any) -> None:
        """Raise TypeError for a TLS socket, and in debug mode ValueError for a blocking one."""
        refuse_tls_socket(sock)
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def wait_readable(self, sock: Any) -> None:
        """Wait until the socket is readable or in error."""
        await self._wait_ready(sock, self._add_reader, self._remove_reader)

    async def wait_writable(self, sock: Any) -> None:
        """Wait until the socket is writable or in error."""
        await self._wait_ready(sock, self._add_writer, self._remove_writer)

    async def _wait_ready(
        self, sock: Any, add: Callable[..., asyncio.Handle], remove: Callable[[int], bool]
    ) -> None:
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        ready = self.create_future()
        handle = add(fd, _set_done, ready)
        try:
            await ready
        finally:
            # A cancelled handle was replaced by another caller, whose watch stays.
            if not handle.cancelled():
                remove(fd)

    async def _receive(self, sock: Any, attempt: Callable[[], T], size: Callable[[T], int]) -> T:
        """Try to receive until there is something; *size* returns the bytes of a result."""
        while True:
            result = self._attempt(sock, attempt, size, self.count_receive)
            if result is not None:
                return result
            await self.wait_readable(sock)

    def _attempt(
        self,
        sock: Any,
        attempt: Callable[[], T],
        size: Callable[[T], int],
        count: Callable[[int, int], None],
    ) -> T | None:
        """Make a system call on a socket, and count it; None if it would block."""
        # On io_uring a transport's socket is blocking: the call would block the loop.
        self._ensure_fd_no_transport(sock)
        fd = sock.fileno()
        try:
            result = attempt()
        except OSError as error:
            if error.errno:
                count(fd, -error.errno)
            if isinstance(error, (BlockingIOError, InterruptedError)):
                return None
            raise
        count(fd, size(result))
        return result

    async def receive_bytes(self, sock: Any, n: int) -> bytes:
        """Receive at most `n` bytes; `sock_recv` for any socket object."""
        self.check_socket(sock)
        received: bytes = await self._receive(sock, lambda: sock.recv(n), len)
        return received

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """Receive into `buf`; return the number of bytes. As AbstractEventLoop.sock_recv_into."""
        self.check_socket(sock)
        received: int = await self._receive(sock, lambda: sock.recv_into(buf), int)
        return received

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of at most `bufsize` bytes; return it and its sender's address."""
        self.check_socket(sock)
        received: tuple[bytes, Any] = await self._receive(
            sock, lambda: sock.recvfrom(bufsize), lambda received: len(received[0])
        )
        return received

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into `buf`; return its length and its sender's address."""
        self.check_socket(sock)
        size = nbytes or len(buf)
        received: tuple[int, Any] = await self._receive(
            sock, lambda: sock.recvfrom_into(buf, size), lambda received: received[0]
        )
        return received

    async def send_all(self, sock: Any, data: Any) -> None:
        """Send all of `data`; `sock_sendall` for any socket object and buffer."""
        self.check_socket(sock)
        sent = self._send(sock, partial(sock.send, data)) or 0
        with memoryview(data) as whole, whole.cast("B") as view:
            while sent < len(view):
                await self.wait_writable(sock)
                sent += self._send(sock, partial(sock.send, view[sent:])) or 0

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> int:
        """Send one datagram to the address; return the number of bytes sent."""
        self.check_socket(sock)
        while True:
            sent = self._send(sock, partial(sock.sendto, data, address))
            if sent is not None:
                return sent
            await self.wait_writable(sock)

    def _send(self, sock: Any, attempt: Callable[[], int]) -> int | None:
        return self._attempt(sock, attempt, int, self.count_send)

    async def sock_accept(self, sock: Any) -> tuple[socket.socket, Any]:
        """Accept a connection; return a non-blocking socket and the client's address."""
        self.check_socket(sock)
        while True:
            accepted = self._attempt(
                sock, sock.accept, lambda accepted: int(accepted[0].fileno()), self.count_accept
            )
            if accepted is not None:
                connection: socket.socket
                connection, address = accepted
                connection.setblocking(False)
                return connection, address
            await self.wait_readable(sock)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect to the address, resolving a host name. As AbstractEventLoop.sock_connect."""
        self.check_socket(sock)
        if sock.family in INET_FAMILIES:
            infos = await resolve(
                self, address, family=sock.family, type=sock.type, proto=sock.proto
            )
            address = infos[0][4]
        fd = sock.fileno()
        try:
            await self._connect_socket(sock, address)
        except OSError as failure:
            self.count_connect(fd, -(failure.errno or errno.EIO))
            raise
        self.count_connect(fd, 0)

    async def _connect_socket(self, sock: socket.socket, address: Any) -> None:
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            # The kernel continues to connect, after EINTR too: connect(2).
            pass
        await self.wait_writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            # Not within the `except`: the error has no context.
            raise OSError(error, f"Connect call failed {address}")


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
