"""`create_server`, `create_unix_server` and the server object that they return."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import logging
import os
import socket
import sys
import weakref
from collections.abc import Callable, Iterable

# As in noria.net.socket_files: asyncio's create_unix_server may call it.
from posix import stat as stat_path
from typing import TYPE_CHECKING, Any, cast

from noria._core.aio.client_count import ClientCount
from noria.aio.connections import check_tls_options
from noria.aio.sockets import refuse_tls_socket
from noria.aio.transport_factory import TransportFactory
from noria.net.addresses import AddressInfo, resolve
from noria.net.socket_files import is_abstract, remove_file_of_inode, remove_socket_file
from noria.net.socket_options import set_listening_options

if TYPE_CHECKING:
    import ssl as ssl_module
    from asyncio.trsock import TransportSocket

    from noria._core.aio.acceptor import Acceptor

Factory = Callable[[], asyncio.BaseProtocol]

# asyncio's logger, which programs configure
log = logging.getLogger("asyncio")

# From Python 3.13 on, asyncio removes a Unix server's path at close.
CLEANUP_SOCKET_DEFAULT = sys.version_info >= (3, 13)

# From Python 3.13 on, create_server skips addresses that the machine does not have.
SKIP_UNAVAILABLE_ADDRESSES = sys.version_info >= (3, 13)


class ServerLoop(TransportFactory):
    """What a server needs of its loop."""

    __slots__ = ()

    # of all servers that listen
    acceptors: set[Acceptor]


class Server(ClientCount, asyncio.Server):
    """Listening sockets, a protocol factory and the connections of the clients."""

    def __init__(
        self,
        loop: ServerLoop,
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
        # Unix sockets whose path is removed at close -> inode number of the path
        self._inodes: dict[socket.socket, int] = {}
        # Transports of asyncio's own class: weak references, as asyncio has them.
        self._selector_clients: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self._waiters: list[asyncio.Future[None]] | None = []
        self._serving_forever_fut: asyncio.Future[None] | None = None
        self._serving = False
        # Each client is served in a copy of this context: from Python 3.15 on the one in which the
        # server was created, before that the one in which it starts to serve (None).
        self._context = contextvars.copy_context() if sys.version_info >= (3, 15) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # Connections.

    def clients_gone(self) -> None:
        """Wake wait_closed(): the server is closed, and its last connection has ended."""
        self._wake_waiters()

    # asyncio's own transports call these.

    def _attach(self, transport: Any = None) -> None:
        super()._attach()
        if transport is not None:
            self._selector_clients.add(transport)

    def _detach(self, transport: Any = None) -> None:
        super()._detach()
        if transport is not None:
            self._selector_clients.discard(transport)

    def _transports(self) -> list[Any]:
        from noria._core.aio.acceptor import transports_of

        return [*transports_of(self._loop, self), *self._selector_clients]

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # asyncio.Server's public methods.

    def get_loop(self) -> ServerLoop:
        """The event loop that the server belongs to."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether the server accepts connections."""
        return self._serving

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:  # type: ignore[override]
        """The listening sockets; empty after close()."""
        from asyncio.trsock import TransportSocket

        return tuple(TransportSocket(sock) for sock in self._sockets or ())

    def _start_serving(self) -> None:
        """Accept connections; do nothing if the server does already.

        Raises RuntimeError if the server is closed, OSError from listen(2).
        """
        from noria._core.aio.acceptor import Acceptor

        if self._serving:
            return
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        serve_tls = None if self._ssl_context is None else self._start_tls_client
        self._serving = True
        try:
            for sock in self._sockets:
                sock.listen(self._backlog)
                acceptor = Acceptor(
                    self._loop, sock, self._protocol_factory, self, serve_tls, self._context
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
        """Create a TLS client's transport and wait for its handshake."""
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
                # The waiter's exception refers to this frame.
                waiter = None  # type: ignore[assignment]
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

    def remove_paths_at_close(self) -> None:
        """Have `close` remove the path of each Unix socket that is still the same file by then."""
        for sock in self._sockets or ():
            path = sock.getsockname()
            if path and not is_abstract(path):
                try:
                    self._inodes[sock] = stat_path(path).st_ino
                except FileNotFoundError:
                    continue

    def close(self) -> None:
        """Stop listening. Connections stay open: see close_clients()."""
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        self.listening_ended = True
        self._stop_accepting()
        for sock in sockets:
            if sock.fileno() < 0:
                # The caller has closed it.
                continue
            # In a child after fork(2) the path belongs to the parent.
            if sock in self._inodes and not self._loop.model.inherited:
                _remove_path(sock, self._inodes[sock])
            sock.close()
        if self._serving_forever_fut is not None and not self._serving_forever_fut.done():
            self._serving_forever_fut.cancel()
        if not self.client_count:
            self._wake_waiters()

    def close_clients(self) -> None:
        """Call close() of every client's transport."""
        for transport in self._transports():
            transport.close()

    def abort_clients(self) -> None:
        """Call abort() of every client's transport."""
        for transport in self._transports():
            transport.abort()

    async def start_serving(self) -> None:
        """Accept connections; do nothing if the server does already."""
        self._start_serving()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Serve until cancelled, then close the server.

        Raises RuntimeError if the server is closed or another call is being awaited.
        """
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
        """Wait until the server is closed and its last connection has ended.

        On Python 3.11 it returns at once if the server is closed, as in that version's asyncio.
        """
        if self._waiters is None or (sys.version_info < (3, 12) and self._sockets is None):
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter


class ServerMethods(ServerLoop):
    """The loop's methods that make servers."""

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
        """Listen on TCP. As AbstractEventLoop.create_server, with `keep_alive` on every Python.

        Raises OSError if no address can be bound; TypeError and ValueError for invalid combinations
        of arguments.
        """
        _check_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            refuse_tls_socket(sock)
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            infos = await _resolve_hosts(self, host, port, family, flags)
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
        cleanup_socket: bool = CLEANUP_SOCKET_DEFAULT,
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
        server = Server(self, sockets, protocol_factory, ssl, backlog, *timeouts)
        if cleanup_path:
            server.remove_paths_at_close()
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
        """Bind a socket to each address whose family the machine supports.

        Raises OSError if an address cannot be bound, or none is left.
        """
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
                set_listening_options(
                    sock,
                    reuse_address=reuse_address,
                    reuse_port=bool(reuse_port),
                    keep_alive=bool(keep_alive),
                )
                try:
                    sock.bind(address)
                except OSError as error:
                    message = (
                        f"error while attempting to bind on address {address!r}: "
                        f"{str(error).lower()}"
                    )
                    if error.errno != errno.EADDRNOTAVAIL or not SKIP_UNAVAILABLE_ADDRESSES:
                        raise OSError(error.errno, message) from None
                    # The machine has no such address, as with IPv6 disabled.
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


def _check_tls(ssl: Any, handshake_timeout: float | None, shutdown_timeout: float | None) -> None:
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    check_tls_options(ssl, None, handshake_timeout, shutdown_timeout)


async def _resolve_hosts(
    loop: asyncio.AbstractEventLoop, host: Any, port: Any, family: int, flags: int
) -> list[AddressInfo]:
    """The addresses to bind, each once, in the order of the hosts. Raises OSError."""
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
    """Bind a Unix socket to the path, replacing a socket file that is there. Raises OSError."""
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
    """Remove a socket file, whether a process listens on it or not, as asyncio does.

    An error is logged only: bind(2) may still work, or report what is wrong.
    """
    try:
        remove_socket_file(path)
    except OSError as error:
        log.error("Unable to check or remove stale UNIX socket %r: %r", path, error)


def _remove_path(sock: socket.socket, inode: int) -> None:
    path = sock.getsockname()
    try:
        remove_file_of_inode(path, inode)
    except OSError as error:
        log.error("Unable to clean up listening UNIX socket %r: %r", path, error)
