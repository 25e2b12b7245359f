"""Listening: `create_server`, `create_unix_server` and the server object they return."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import logging
import os
import socket
import stat
import sys
import weakref
from collections.abc import Callable, Iterable

# By name: tools that look for blocking calls (blockbuster) replace the functions of the module
# `os`, and allow these to asyncio's create_unix_server only.
from os import remove, unlink
from os import stat as stat_path
from typing import TYPE_CHECKING, Any, cast

from noria.aio.connections import check_tls_options
from noria.aio.sockets import INET_FAMILIES, refuse_tls_socket
from noria.net.addresses import AddressInfo, resolve

if TYPE_CHECKING:
    import ssl as ssl_module
    from asyncio.trsock import TransportSocket

    from noria._core.aio.acceptor import Acceptor
    from noria.aio.loop import EventLoop

Factory = Callable[[], asyncio.BaseProtocol]

log = logging.getLogger("asyncio")  # asyncio's logger, which programs configure

# From Python 3.13 on, asyncio removes a Unix server's path at close, and create_server skips
# addresses that the machine does not have.
_CLEANUP_SOCKET = _SKIP_UNAVAILABLE = sys.version_info >= (3, 13)


class Server(asyncio.Server):
    """Listening sockets whose clients are served: asyncio.Server, and a subclass of it."""

    def __init__(
        self,
        loop: EventLoop,
        sockets: list[socket.socket],
        protocol_factory: Factory,
        ssl: ssl_module.SSLContext | None,
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
    ) -> None:
        self._loop = loop
        self._sockets: list[socket.socket] | None = sockets
        self._protocol_factory = protocol_factory
        self._ssl_context = ssl
        self._backlog = backlog
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._acceptors: list[Acceptor] = []
        self._paths: dict[socket.socket, int] = {}  # of Unix sockets to remove, with the inode
        # Weak, as a transport that nobody holds is closed with a warning.
        self._clients: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self._client_count = 0
        self._waiters: list[asyncio.Future[None]] | None = []
        self._serving_forever_fut: asyncio.Future[None] | None = None
        self._serving = False
        # Clients are served in copies of this context, since Python 3.15 that of the server's
        # making, before that the one in which it starts to serve.
        self._context = contextvars.copy_context() if sys.version_info >= (3, 15) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # The connections that it has.

    def attach(self, transport: Any = None) -> None:
        """Count a client's connection. Without a transport it is only counted."""
        self._client_count += 1
        if transport is not None:
            self._clients.add(transport)

    def detach(self, transport: Any = None) -> None:
        """Count a connection that has ended."""
        self._client_count -= 1
        if transport is not None:
            self._clients.discard(transport)
        if not self._client_count and self._sockets is None:
            self._wake_waiters()

    # The names by which asyncio's own transports call them.
    _attach = attach
    _detach = detach

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # asyncio.Server's public methods.

    def get_loop(self) -> EventLoop:
        """The event loop it belongs to."""
        return self._loop

    def is_serving(self) -> bool:
        """True if it accepts connections."""
        return self._serving

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:  # type: ignore[override]
        """The listening sockets; empty once closed."""
        from asyncio.trsock import TransportSocket

        return tuple(TransportSocket(sock) for sock in self._sockets or ())

    def _start_serving(self) -> None:
        """Start to accept connections; nothing happens if it does already.

        Raises RuntimeError if closed, OSError from listen(2).
        """
        from noria._core.aio.acceptor import Acceptor

        if self._serving:
            return
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        secure = None if self._ssl_context is None else self._start_tls_client
        self._serving = True
        try:
            for sock in self._sockets:
                sock.listen(self._backlog)
                acceptor = Acceptor(
                    self._loop, sock, self._protocol_factory, self, secure, self._context
                )
                self._acceptors.append(acceptor)
                self._loop.acceptors.add(acceptor)
        except BaseException:
            self._stop_accepting()
            raise

    def _stop_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
            self._loop.acceptors.discard(acceptor)
        self._acceptors.clear()
        self._serving = False

    def _start_tls_client(self, factory: Factory, sock: socket.socket, server: Any) -> None:
        sock.setblocking(False)
        self._loop.create_task(self._accept_tls_client(factory, sock))

    async def _accept_tls_client(self, factory: Factory, sock: socket.socket) -> None:
        """Serve one TLS client."""
        loop = self._loop
        transport = protocol = None
        try:
            protocol = factory()
            waiter = loop.create_future()
            transport = loop.make_tls_transport(
                sock,
                protocol,
                cast("ssl_module.SSLContext", self._ssl_context),
                waiter,
                server_side=True,
                server=self,
                ssl_handshake_timeout=self._ssl_handshake_timeout,
                ssl_shutdown_timeout=self._ssl_shutdown_timeout,
            )
            try:
                await waiter
            except BaseException:
                transport.close()
                waiter = None  # type: ignore[assignment]  # its exception refers to this frame
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if transport is None:
                sock.close()
            if loop.get_debug():
                context = {
                    "message": "Error on transport creation for incoming connection",
                    "exception": error,
                }
                if protocol is not None:
                    context["protocol"] = protocol
                if transport is not None:
                    context["transport"] = transport
                loop.call_exception_handler(context)

    def remove_path_at_close(self) -> None:
        """Have `close` remove the path of a Unix socket, if it is then still the same file."""
        for sock in self._sockets or ():
            path = sock.getsockname()
            if path and path[0] not in (0, "\x00"):
                try:
                    self._paths[sock] = stat_path(path).st_ino
                except FileNotFoundError:
                    continue

    def close(self) -> None:
        """Stop listening. Connections stay open; close_clients() closes them."""
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        self._stop_accepting()
        for sock in sockets:
            if sock.fileno() < 0:
                continue  # closed by the user
            # In a fork's child the path is its parent's.
            if sock in self._paths and not self._loop.model.inherited:
                _remove_path(sock, self._paths[sock])
            sock.close()
        if self._serving_forever_fut is not None and not self._serving_forever_fut.done():
            self._serving_forever_fut.cancel()
        if not self._client_count:
            self._wake_waiters()

    def close_clients(self) -> None:
        """Close every client's connection, as transport.close() does."""
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        """Close every client's connection at once, as transport.abort() does."""
        for transport in list(self._clients):
            cast("asyncio.Transport", transport).abort()

    async def start_serving(self) -> None:
        """Start to accept connections. Nothing happens if it does already."""
        self._start_serving()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Serve until cancelled, then close. Raises RuntimeError if closed or called twice."""
        if self._serving_forever_fut is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever_fut = self._loop.create_future()
        try:
            await self._serving_forever_fut
        except asyncio.CancelledError:
            self.close()
            if sys.version_info >= (3, 14):
                self.close_clients()
            await self.wait_closed()
            raise
        finally:
            self._serving_forever_fut = None

    async def wait_closed(self) -> None:
        """Wait until it is closed and its last connection has ended.

        On Python 3.11 it returns at once if the server is closed, as that version's asyncio does.
        """
        if self._waiters is None or (sys.version_info < (3, 12) and self._sockets is None):
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter


class ServerMethods(asyncio.AbstractEventLoop):
    """`AbstractEventLoop.create_server` and `create_unix_server`."""

    __slots__ = ()

    async def create_server(
        self,
        protocol_factory: Factory,
        host: Any = None,
        port: Any = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Listen on TCP. As AbstractEventLoop.create_server; `keep_alive` on every Python.

        Raises OSError if no address can be bound, TypeError and ValueError for arguments that do
        not go together.
        """
        _check_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            refuse_tls_socket(sock)
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            infos = await _addresses(self, host, port, family, flags)
            sockets = self._bind(
                infos, reuse_address is None or reuse_address, reuse_port, keep_alive
            )
        elif sock is None:
            raise ValueError("Neither host/port nor sock were specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        else:
            sockets = [sock]
        timeouts = (ssl_handshake_timeout, ssl_shutdown_timeout)
        server = await self._serve(protocol_factory, sockets, ssl, backlog, timeouts, start_serving)
        if self.get_debug():
            log.info("%r is serving", server)
        return server

    async def create_unix_server(
        self,
        protocol_factory: Factory,
        path: Any = None,
        *,
        sock: Any = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = _CLEANUP_SOCKET,
    ) -> Server:
        """Listen on a Unix socket. As AbstractEventLoop.create_unix_server.

        `cleanup_socket`: remove the path at close; True by default from Python 3.13 on.
        """
        _check_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = _bind_path(os.fspath(path))
        elif sock is None:
            raise ValueError("path was not specified, and no sock specified")
        elif sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
        timeouts = (ssl_handshake_timeout, ssl_shutdown_timeout)
        return await self._serve(
            protocol_factory, [sock], ssl, backlog, timeouts, start_serving, cleanup_socket
        )

    async def _serve(
        self,
        protocol_factory: Factory,
        sockets: list[socket.socket],
        ssl: Any,
        backlog: int,
        timeouts: tuple[float | None, float | None],
        start: bool,
        cleanup_path: bool = False,
    ) -> Server:
        for sock in sockets:
            sock.setblocking(False)
        server = Server(cast("EventLoop", self), sockets, protocol_factory, ssl, backlog, *timeouts)
        if cleanup_path:
            server.remove_path_at_close()
        if start:
            await server.start_serving()
        return server

    def _bind(
        self,
        infos: Iterable[AddressInfo],
        reuse_address: bool,
        reuse_port: bool | None,
        keep_alive: bool | None,
    ) -> list[socket.socket]:
        """A bound socket for each address whose family the machine has."""
        sockets: list[socket.socket] = []
        infos = list(infos)
        try:
            for family, type, proto, _, address in infos:
                try:
                    sock = socket.socket(family, type, proto)
                except OSError:
                    if self.get_debug():
                        log.warning(
                            "create_server() failed to create socket.socket(%r, %r, %r)",
                            family,
                            type,
                            proto,
                            exc_info=True,
                        )
                    continue
                sockets.append(sock)
                if reuse_address:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Linux 6.12.9 and later refuse it for other families.
                if reuse_port and family in INET_FAMILIES:
                    share_port(sock)
                if keep_alive:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if family == socket.AF_INET6:
                    # IPv4 has a socket of its own.
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    sock.bind(address)
                except OSError as error:
                    message = (
                        f"error while attempting to bind on address {address!r}: "
                        f"{str(error).lower()}"
                    )
                    if error.errno != errno.EADDRNOTAVAIL or not _SKIP_UNAVAILABLE:
                        raise OSError(error.errno, message) from None
                    # The machine does not have the family, as without IPv6.
                    sockets.pop().close()
                    if self.get_debug():
                        log.warning(message)
            if not sockets:
                addresses = [info[4] for info in infos]
                raise OSError(f"could not bind on any address out of {addresses!r}")
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets


def share_port(sock: socket.socket) -> None:
    """Set SO_REUSEPORT; raises ValueError where the system does not have it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except (AttributeError, OSError):
        raise ValueError("reuse_port not supported by socket module") from None


def _check_tls(ssl: Any, handshake_timeout: float | None, shutdown_timeout: float | None) -> None:
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    check_tls_options(ssl, None, handshake_timeout, shutdown_timeout)


async def _addresses(
    loop: asyncio.AbstractEventLoop, host: Any, port: Any, family: int, flags: int
) -> list[AddressInfo]:
    """What to bind: each address once, in the order of the hosts."""
    if host == "":
        hosts: list[Any] = [None]
    elif isinstance(host, str) or not isinstance(host, Iterable):
        hosts = [host]
    else:
        hosts = list(host)
    found = await asyncio.gather(
        *(resolve(loop, (name, port), family=family, flags=flags) for name in hosts)
    )
    return list(dict.fromkeys(info for infos in found for info in infos))


def _bind_path(path: Any) -> socket.socket:
    """A Unix socket at the path, in place of a socket that an earlier server left there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_stale_socket(path)
        sock.bind(path)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    return sock


def remove_stale_socket(path: Any) -> None:
    """Remove a socket file; other files, and the abstract namespace (unix(7)), are left alone."""
    if path[0] in (0, "\x00"):
        return
    try:
        if stat.S_ISSOCK(stat_path(path).st_mode):
            remove(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # the directory may allow no more than making a socket
        log.error("Unable to check or remove stale UNIX socket %r: %r", path, error)


def _remove_path(sock: socket.socket, inode: int) -> None:
    path = sock.getsockname()
    try:
        if stat_path(path).st_ino == inode:
            unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.error("Unable to clean up listening UNIX socket %r: %r", path, error)
