"""Client connections, sockets accepted elsewhere, and upgrades to TLS."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from noria.aio.sockets import refuse_tls_socket
from noria.net.addresses import AddressInfo, interleave, resolve, staggered_race

if TYPE_CHECKING:
    import ssl as ssl_module

    from noria.aio.loop import EventLoop

Factory = Callable[[], asyncio.BaseProtocol]

log = logging.getLogger("asyncio")  # asyncio's logger, which programs configure


# From Python 3.15 on a connection's context is copied before its protocol factory is called.
CONTEXT_BEFORE_FACTORY = sys.version_info >= (3, 15)


class ConnectionMethods(asyncio.AbstractEventLoop):
    """`AbstractEventLoop.create_connection` and its relatives."""

    __slots__ = ()

    async def create_connection(
        self,
        protocol_factory: Factory,
        host: Any = None,
        port: Any = None,
        *,
        ssl: Any = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: Any = None,
        local_addr: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[asyncio.Transport, Any]:
        """Connect to a server. As AbstractEventLoop.create_connection.

        Raises OSError if no address can be connected to, or with `all_errors` (on every Python) an
        ExceptionGroup; ssl.SSLError; TypeError and ValueError for arguments that do not go
        together.
        """
        if ssl and server_hostname is None:
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host
        check_tls_options(ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            refuse_tls_socket(sock)
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1  # what RFC 8305 recommends
        given = sock is not None
        if host is not None or port is not None:
            if given:
                raise ValueError("host/port and sock can not be specified at the same time")
            sock = await self._connect_to_host(
                (host, port),
                local_addr,
                {"family": family, "proto": proto, "flags": flags},
                happy_eyeballs_delay,
                interleave,
                all_errors,
            )
        elif not given:
            raise ValueError("host and port was not specified and no sock specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        transport, protocol = await self._begin_connection(
            sock,
            protocol_factory,
            ssl,
            server_hostname=server_hostname,
            given=given,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self.get_debug():
            sock = transport.get_extra_info("socket")
            log.debug("%r connected to %s:%r: (%r, %r)", sock, host, port, transport, protocol)
        return transport, protocol

    async def create_unix_connection(
        self,
        protocol_factory: Factory,
        path: Any = None,
        *,
        ssl: Any = None,
        sock: Any = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Connect to a Unix socket. As AbstractEventLoop.create_unix_connection."""
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        check_tls_options(ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        given = sock is not None
        if path is not None:
            if given:
                raise ValueError("path and sock can not be specified at the same time")
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, os.fspath(path))
            except BaseException:
                sock.close()
                raise
        elif not given:
            raise ValueError("no path and sock were specified")
        elif sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
        return await self._begin_connection(
            sock,
            protocol_factory,
            ssl,
            server_hostname=server_hostname,
            given=given,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    async def connect_accepted_socket(
        self,
        protocol_factory: Factory,
        sock: Any,
        *,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Serve an accepted socket. As AbstractEventLoop.connect_accepted_socket."""
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        check_tls_options(ssl, None, ssl_handshake_timeout, ssl_shutdown_timeout)
        refuse_tls_socket(sock)
        transport, protocol = await self._begin_connection(
            sock,
            protocol_factory,
            ssl,
            server_side=True,
            server_hostname="",
            given=True,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self.get_debug():
            sock = transport.get_extra_info("socket")
            log.debug("%r handled: (%r, %r)", sock, transport, protocol)
        return transport, protocol

    async def _begin_connection(
        self,
        sock: socket.socket,
        protocol_factory: Factory,
        ssl: Any,
        *,
        given: bool,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Create a transport on a connected socket and wait for connection_made.

        The socket is closed if that fails, unless another transport has it already.
        """
        loop = cast("EventLoop", self)
        loop._ensure_fd_no_transport(sock)
        context = contextvars.copy_context() if CONTEXT_BEFORE_FACTORY else None
        try:
            sock.setblocking(False)
            protocol = protocol_factory()
            waiter = self.create_future()
            if ssl:
                transport = loop.make_tls_transport(
                    sock,
                    protocol,
                    None if isinstance(ssl, bool) else ssl,
                    waiter,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    given=given,
                    context=context,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                )
            else:
                transport = loop.make_stream_transport(
                    sock, protocol, waiter, given=given, context=context
                )
        except BaseException:
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            waiter = None  # type: ignore[assignment]  # its exception refers to this frame
            raise
        return transport, protocol

    # To a host, which may have several addresses.

    async def _connect_to_host(
        self,
        address: tuple[Any, Any],
        local_address: Any,
        options: dict[str, int],
        happy_eyeballs_delay: float | None,
        first_family_count: int | None,
        all_errors: bool,
    ) -> socket.socket:
        infos = await resolve(self, address, type=socket.SOCK_STREAM, **options)
        local_infos: Sequence[AddressInfo] = ()
        if local_address is not None:
            local_infos = await resolve(self, local_address, type=socket.SOCK_STREAM, **options)
        if first_family_count:
            infos = interleave(infos, first_family_count)
        errors: list[list[OSError]] = [[] for _ in infos]  # of each address
        try:
            sock = None
            if happy_eyeballs_delay is not None:
                sock = await staggered_race(
                    [
                        partial(self._connect, info, local_infos, own)
                        for info, own in zip(infos, errors, strict=True)
                    ],
                    happy_eyeballs_delay,
                )
            else:
                for info, own in zip(infos, errors, strict=True):
                    try:
                        sock = await self._connect(info, local_infos, own)
                        break
                    except OSError:
                        continue
                    finally:
                        del own
            if sock is None:
                raise _connect_error([error for own in errors for error in own], all_errors)
            return sock
        finally:
            del errors  # their tracebacks refer to this frame

    async def _connect(
        self, info: AddressInfo, local_infos: Sequence[AddressInfo], errors: list[OSError]
    ) -> socket.socket:
        """Connect a socket to the address; OSErrors are also appended to `errors`."""
        family, type, proto, _, address = info
        sock = None
        try:
            sock = socket.socket(family, type, proto)
            sock.setblocking(False)
            if local_infos:
                _bind_local(sock, local_infos, errors)
            await self.sock_connect(sock, address)
            return sock
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError):
                errors.append(error)
            raise
        finally:
            del errors

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl_module.SSLContext,
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

        from noria.aio.tls import move_buffered_data

        loop = cast("EventLoop", self)

        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(
                f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
            )
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        if transport.is_closing():
            if (
                getattr(transport, "_connection", None)
                and transport._connection.connection_lost_called
            ):
                # asyncio's start_tls never returns then.
                raise ConnectionAbortedError(
                    errno.ECONNABORTED, f"start_tls() on a connection that was lost: {transport!r}"
                )
            return None
        waiter = self.create_future()
        secure = loop.make_tls_protocol(
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
        if server_side:
            move_buffered_data(protocol, secure)
        transport.set_protocol(secure)
        if getattr(transport, "_protocol_paused", False):
            # The plain transport has called the protocol's pause_writing.
            secure.start_paused()
        begin = self.call_soon(secure.connection_made, transport)
        resume = self.call_soon(transport.resume_reading)
        if getattr(transport, "_connection", None) and transport._connection.at_eof:
            # The peer has ended its side already, which is reported once only.
            self.call_soon(secure.eof_received)
        try:
            await waiter
        except BaseException:
            transport.close()
            begin.cancel()
            resume.cancel()
            # Its exception has this frame in its traceback: the transport would be in a cycle.
            del waiter
            raise
        if not secure.handshake_done:
            begin.cancel()
            resume.cancel()
            return None
        return cast("asyncio.Transport", secure.app_transport)


def check_tls_options(
    ssl: Any,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> None:
    """Raise ValueError for an option that is only meaningful with TLS, if there is none."""
    if ssl:
        return
    if server_hostname is not None:
        raise ValueError("server_hostname is only meaningful with ssl")
    if handshake_timeout is not None:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown_timeout is not None:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def _bind_local(
    sock: socket.socket, local_infos: Sequence[AddressInfo], errors: list[OSError]
) -> None:
    """Bind to the first local address of the socket's family that can be bound.

    The errors of others are appended to `errors`; if none can be bound, the last is raised.
    """
    for family, _, _, _, address in local_infos:
        if family != sock.family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as error:
            reason = str(error).lower()
            message = f"error while attempting to bind on address {address!r}: {reason}"
            errors.append(OSError(error.errno, message))
    try:
        raise (
            errors.pop()
            if errors
            else OSError(f"no matching local address with family={sock.family!r} found")
        )
    finally:
        del errors


def _connect_error(errors: list[OSError], all_errors: bool) -> BaseException:
    """What create_connection raises when no address could be connected to."""
    if all_errors:
        return ExceptionGroup("create_connection failed", errors)
    if not errors:
        return TimeoutError("create_connection failed")
    if len({str(error) for error in errors}) == 1:
        return errors[0]
    return OSError(f"Multiple exceptions: {', '.join(str(error) for error in errors)}")
