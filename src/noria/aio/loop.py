"""An asyncio event loop on noria's models.

asyncio's own class brings what runs once for a connection, a process or a signal (create_server,
subprocesses, pipes, name resolution, executors); `Core` brings what runs once for a message or a
call. This file joins the two.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import errno
import selectors
import signal
import socket
import sys
import threading
from asyncio import constants, events
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from noria import models
from noria._core.aio.core import Core

if TYPE_CHECKING:
    import ssl

    from noria._core.aio.acceptor import Acceptor
    from noria.aio.sendfile import Pieces
    from noria.aio.tls import TLSProtocol

Factory = Callable[[], Any]

_Base = asyncio.SelectorEventLoop  # a program may put noria's loop in the place of that name

# Methods of a socket that asyncio's transports call, and noria's do not.
_STREAM_METHODS = ("recv", "recv_into", "send", "sendmsg")
_DATAGRAM_METHODS = ("recvfrom", "send", "sendto")


def _overrides(sock: socket.socket, methods: tuple[str, ...]) -> bool:
    """Whether the socket has its own way of doing one of the methods: a subclass, or patched."""
    kind = type(sock)
    for name in methods:
        if getattr(kind, name, None) is not getattr(_socket.socket, name):
            return True
    if kind is socket.socket:
        return False
    return any(name in getattr(sock, "__dict__", ()) for name in methods)


def _first_transport(connection: Any) -> asyncio.Transport:
    from noria.aio.transports import SocketTransport

    connection.event_loop.make_transport = SocketTransport
    return SocketTransport(connection)


class _NoSelector:
    """Stands where asyncio's loop has its selector.

    asyncio's own transports (datagrams, pipes) look into it for their repr, and close() ends it.
    """

    def __init__(self, core: Core):
        self.core = core

    def get_key(self, fd: int) -> selectors.SelectorKey:
        """What the loop watches the descriptor for; raises KeyError if for nothing."""
        return selectors.SelectorKey(fd, fd, self.core.watched(fd), None)

    def close(self) -> None:
        self.core.close_core()


class EventLoop(Core, _Base):
    """An asyncio event loop on the given model: see noria.new_event_loop."""

    # All that asyncio's own classes keep. With none of it in a dict, CPython's interpreter finds
    # the loop's methods without looking for an attribute of that name first.
    __slots__ = (
        "_acceptors",
        "_asyncgens",
        "_asyncgens_shutdown_called",
        "_clock_resolution",
        "_closed",
        "_coroutine_origin_tracking_enabled",
        "_coroutine_origin_tracking_saved_depth",
        "_csock",
        "_current_handle",
        "_debug",
        "_default_executor",
        "_exception_handler",
        "_executor_shutdown_called",
        "_given_sockets",
        "_internal_fds",
        "_old_agen_hooks",
        "_pieces",
        "_ready",
        "_scheduled",
        "_selector",
        "_signal_handlers",
        "_ssock",
        "_stopping",
        "_task_factory",
        "_thread_id",
        "_timer_cancelled_count",
        "_transports",
        "_unix_server_sockets",
        "_watcher",
        "slow_callback_duration",
    )

    if TYPE_CHECKING:  # asyncio's own, which its stubs leave out
        _csock: socket.socket
        _signal_handlers: dict[int, asyncio.Handle]
        _check_closed: Callable[[], None]
        _check_running: Callable[[], None]
        _asyncgen_firstiter_hook: Callable[[Any], None]
        _asyncgen_finalizer_hook: Callable[[Any], None]
        _set_coroutine_origin_tracking: Callable[[bool], None]
        _ensure_fd_no_transport: Callable[[Any], None]
        _accept_connection2: Callable[..., Any]
        _add_writer: Callable[..., Any]
        _remove_writer: Callable[[int], bool]
        _check_sendfile_params: Callable[..., None]
        _thread_id: int | None

    def __init__(self, model: str = "auto"):
        chosen = models.make(model)
        try:
            chosen.require("asyncio")
        except BaseException:
            chosen.close()
            raise
        Core.__init__(self, chosen)
        self.make_transport = _first_transport
        if type(self).time is not EventLoop.time:
            self.use_clock(True)
        self._acceptors: dict[socket.socket, Acceptor] = {}
        self._pieces: Pieces | None = None  # of files that are sent
        self._given_sockets: set[int] = set()  # ids of socket objects that callers passed in
        _Base.__init__(self, cast("Any", _NoSelector(self)))

    @property
    def model_name(self) -> str:
        """The name of the model that it runs on."""
        return self.model.name

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} model={self.model.name} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    # A replaced `time` is the clock that timers run by, as time-travelling test tools expect.

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "time":
            self.use_clock(True)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name == "time":
            self.use_clock(type(self).time is not EventLoop.time)

    # Running.

    def run_forever(self) -> None:
        """Runs until stop() is called."""
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self.get_debug())
        hooks = sys.get_asyncgen_hooks()
        wakes = self._let_signals_wake()
        try:
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
            self.turn_until_stopped()
        finally:
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)
            if wakes and not self._signal_handlers:
                signal.set_wakeup_fd(-1)

    def _let_signals_wake(self) -> bool:
        """A signal that comes right before the loop falls asleep must not be slept over."""
        if threading.current_thread() is not threading.main_thread():
            return False
        try:
            former = signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        except ValueError:
            return False  # a subinterpreter
        if former not in (-1, self._csock.fileno()):
            signal.set_wakeup_fd(former)
            return False
        return True

    def close(self) -> None:
        """Ends the loop; nothing may run on it afterwards."""
        for acceptor in list(self._acceptors.values()):
            acceptor.close()
        self._acceptors.clear()
        _Base.close(self)

    # Connections. What they are made of is imported with the first: programs start sooner.

    @contextlib.contextmanager
    def _given(self, sock: socket.socket | None) -> Iterator[None]:
        """Within it, a transport on this socket is one whose socket the caller may close."""
        if sock is None:
            yield
            return
        self._given_sockets.add(id(sock))
        try:
            yield
        finally:
            self._given_sockets.discard(id(sock))

    async def create_connection(
        self, protocol_factory: Factory, *address: Any, sock: Any = None, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        """Connect to a server. As AbstractEventLoop.create_connection."""
        with self._given(sock):
            return await _Base.create_connection(
                self, protocol_factory, *address, sock=sock, **options
            )

    async def create_unix_connection(
        self, protocol_factory: Factory, *path: Any, sock: Any = None, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        """Connect to a Unix socket. As AbstractEventLoop.create_unix_connection."""
        with self._given(sock):
            return await _Base.create_unix_connection(
                self, protocol_factory, *path, sock=sock, **options
            )

    async def connect_accepted_socket(
        self, protocol_factory: Factory, sock: Any, **options: Any
    ) -> tuple[asyncio.Transport, Any]:
        """Serve an accepted socket. As AbstractEventLoop.connect_accepted_socket."""
        with self._given(sock):
            return await _Base.connect_accepted_socket(self, protocol_factory, sock, **options)

    async def create_datagram_endpoint(
        self, protocol_factory: Factory, *addresses: Any, sock: Any = None, **options: Any
    ) -> tuple[asyncio.DatagramTransport, Any]:
        """Open a datagram socket. As AbstractEventLoop.create_datagram_endpoint."""
        with self._given(sock):
            return await _Base.create_datagram_endpoint(
                self, protocol_factory, *addresses, sock=sock, **options
            )

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
    ) -> asyncio.Transport:
        from noria._core.aio.connection import connect

        if _overrides(sock, _STREAM_METHODS):
            return cast(
                "asyncio.Transport",
                _Base._make_socket_transport(  # type: ignore[attr-defined]
                    self, sock, protocol, waiter, extra=extra, server=server
                ),
            )
        given = id(sock) in self._given_sockets
        connection = connect(self, sock, protocol, extra, server, given)
        connection.begin(waiter)
        return cast("asyncio.Transport", connection.transport)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> asyncio.Transport:
        self._ensure_fd_no_transport(rawsock)
        secure = self._secure(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, secure, extra=extra, server=server)
        return cast("asyncio.Transport", secure._app_transport)

    def _secure(self, *args: Any, **kwargs: Any) -> TLSProtocol:
        # Imported late: a Python may have been built without the ssl module.
        from noria.aio.tls import TLSProtocol

        return TLSProtocol(self, *args, **kwargs)

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport | None:
        """Upgrade a plain connection to TLS. As AbstractEventLoop.start_tls.

        Returns None if the connection is closing or ends before the handshake does, and raises
        ConnectionAbortedError if it was lost before.
        """
        import ssl

        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        if transport.is_closing():
            if getattr(transport, "_connection", None) and transport._connection.lost_protocol:
                # asyncio would wait for ever.
                raise ConnectionAbortedError(
                    errno.ECONNABORTED, f"start_tls() on a connection that was lost: {transport!r}"
                )
            return None
        waiter = self.create_future()
        secure = self._secure(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        # Nothing that comes before the handshake has begun may be taken for plain text.
        transport.pause_reading()
        transport.set_protocol(secure)
        if getattr(transport, "_protocol_paused", False):
            # The plain transport told the protocol, and will tell `secure` to resume.
            secure.pause_writing()
            secure._app_writing_paused = True
        begin = self.call_soon(secure.connection_made, transport)
        resume = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            begin.cancel()
            resume.cancel()
            raise
        if "ssl_object" not in secure._extra:  # asyncio's end of a handshake sets it
            begin.cancel()
            resume.cancel()
            return None
        return secure._get_app_transport()

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport:
        from noria._core.aio.datagrams import DatagramSocket
        from noria.aio.transports import DatagramTransport

        if _overrides(sock, _DATAGRAM_METHODS):
            return cast(
                "asyncio.DatagramTransport",
                _Base._make_datagram_transport(  # type: ignore[attr-defined]
                    self, sock, protocol, address, waiter, extra
                ),
            )
        self._ensure_fd_no_transport(sock)
        given = id(sock) in self._given_sockets
        made = DatagramSocket(
            self, sock, protocol, address, waiter, extra, DatagramTransport, given
        )
        return cast("asyncio.DatagramTransport", made.transport)

    # Servers.

    def _start_serving(
        self,
        protocol_factory: Factory,
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
    ) -> None:
        from noria._core.aio.acceptor import Acceptor

        secure = None
        if sslcontext is not None:

            def secure(factory: Factory, conn: socket.socket, server: Any) -> None:
                conn.setblocking(False)
                self.create_task(
                    self._accept_connection2(
                        factory,
                        conn,
                        {},
                        sslcontext,
                        server,
                        ssl_handshake_timeout,
                        ssl_shutdown_timeout,
                    )
                )

        self._acceptors[sock] = Acceptor(self, sock, protocol_factory, server, secure)

    def _stop_serving(self, sock: socket.socket) -> None:
        acceptor = self._acceptors.pop(sock, None)
        if acceptor is not None:
            acceptor.stop()
        if sock.fileno() < 0:
            return  # closed by the user
        if self.model.inherited:  # a fork's child: the path of a Unix socket is its parent's
            sock.close()
        else:
            _Base._stop_serving(self, sock)  # type: ignore[attr-defined]

    # Files.

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None
    ) -> int:
        return await self._sendfile_pieces().send(sock, file, offset, count)

    def _sendfile_pieces(self) -> Pieces:
        if self._pieces is None:
            from noria.aio.sendfile import Pieces

            self._pieces = Pieces(self)
        return self._pieces

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        sock = transp.get_extra_info("socket")._sock
        self._check_sendfile_params(sock, file, offset, count)
        connection = transp._connection
        sent_before = connection.lend()
        reading = transp.is_reading()
        transp.pause_reading()
        try:
            await sent_before
            sock.setblocking(False)
            return await self._sendfile_pieces().send(sock, file, offset, count, connection)
        except ConnectionError as error:
            connection.force_close(error)
            raise
        finally:
            connection.give_back()
            if reading:
                transp.resume_reading()
