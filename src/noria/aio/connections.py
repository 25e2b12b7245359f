"""`create_connection`, `create_unix_connection`, `connect_accepted_socket` and `start_tls`."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import itertools
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from noria.aio.sockets import refuse_tls_socket
from noria.aio.transport_factory import TransportFactory
from noria.net.addresses import AddressInfo, interleave, resolve, staggered_race

if TYPE_CHECKING:
    import ssl as ssl_module

Factory = Callable[[], asyncio.BaseProtocol]

# asyncio's logger, which programs configure
log = logging.getLogger("asyncio")

# From Python 3.15 on, a connection's context is copied before its protocol factory is called.
CONTEXT_BEFORE_FACTORY = sys.version_info >= (3, 15)


class ConnectionMethods(TransportFactory):
    """The loop's methods that make connections from sockets, hosts and paths."""

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

        Raises OSError if no address can be connected to, or an ExceptionGroup with `all_errors`
        (on every Python); ssl.SSLError; TypeError and ValueError for invalid combinations of
        arguments.
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
        from_caller = sock is not None
        if host is not None or port is not None:
            if from_caller:
                raise ValueError("host/port and sock can not be specified at the same time")
            sock = await self._connect_to_host(
                (host, port),
                local_addr,
                {"family": family, "proto": proto, "flags": flags},
                happy_eyeballs_delay,
                interleave,
                all_errors,
            )
        elif not from_caller:
            raise ValueError("host and port was not specified and no sock specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        transport, protocol = await self._start_connection(
            sock,
            protocol_factory,
            ssl,
            server_hostname=server_hostname,
            from_caller=from_caller,
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
        from_caller = sock is not None
        if path is not None:
            if from_caller:
                raise ValueError("path and sock can not be specified at the same time")
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, os.fspath(path))
            except BaseException:
                sock.close()
                raise
        elif not from_caller:
            raise ValueError("no path and sock were specified")
        elif sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
        return await self._start_connection(
            sock,
            protocol_factory,
            ssl,
            server_hostname=server_hostname,
            from_caller=from_caller,
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
        transport, protocol = await self._start_connection(
            sock,
            protocol_factory,
            ssl,
            server_side=True,
            server_hostname="",
            from_caller=True,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if self.get_debug():
            sock = transport.get_extra_info("socket")
            log.debug("%r handled: (%r, %r)", sock, transport, protocol)
        return transport, protocol

    async def _start_connection(
        self,
        sock: socket.socket,
        protocol_factory: Factory,
        ssl: Any,
        *,
        from_caller: bool,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Create a transport on a connected socket and wait for connection_made.

        If that fails, the socket is closed, unless another transport uses it already.
        """
        self._ensure_fd_no_transport(sock)
        context = contextvars.copy_context() if CONTEXT_BEFORE_FACTORY else None
        try:
            sock.setblocking(False)
            protocol = protocol_factory()
            waiter = self.create_future()
            if ssl:
                transport = self.make_tls_transport(
                    sock,
                    protocol,
                    None if isinstance(ssl, bool) else ssl,
                    waiter,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    from_caller=from_caller,
                    context=context,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                )
            else:
                transport = self.make_stream_transport(
                    sock, protocol, waiter, from_caller=from_caller, context=context
                )
        except BaseException:
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            # The waiter's exception refers to this frame.
            waiter = None  # type: ignore[assignment]
            raise
        return transport, protocol

    async def _connect_to_host(
        self,
        address: tuple[Any, Any],
        local_address: Any,
        options: dict[str, int],
        happy_eyeballs_delay: float | None,
        first_family_count: int | None,
        all_errors: bool,
    ) -> socket.socket:
        """Resolve the host and return a socket connected to one of its addresses."""
        infos = await resolve(self, address, type=socket.SOCK_STREAM, **options)
        local_infos: Sequence[AddressInfo] = ()
        if local_address is not None:
            local_infos = await resolve(self, local_address, type=socket.SOCK_STREAM, **options)
        if first_family_count:
            infos = interleave(infos, first_family_count)
        # One list for each address.
        errors: list[list[OSError]] = [[] for _ in infos]
        try:
            sock = None
            if happy_eyeballs_delay is not None:
                sock = await staggered_race(
                    [
                        partial(self._connect, info, local_infos, address_errors)
                        for info, address_errors in zip(infos, errors, strict=True)
                    ],
                    happy_eyeballs_delay,
                )
            else:
                for info, address_errors in zip(infos, errors, strict=True):
                    try:
                        sock = await self._connect(info, local_infos, address_errors)
                        break
                    except OSError:
                        continue
                    finally:
                        del address_errors
            if sock is None:
                raise _connect_error(list(itertools.chain.from_iterable(errors)), all_errors)
            return sock
        finally:
            # Their tracebacks refer to this frame.
            del errors

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

        Returns None if the connection is closing or ends during the handshake. Raises
        ConnectionAbortedError if it was lost before the call.
        """
        import ssl

        from noria.aio.tls import move_buffered_data

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
                # asyncio's start_tls would never return.
                raise ConnectionAbortedError(
                    errno.ECONNABORTED, f"start_tls() on a connection that was lost: {transport!r}"
                )
            return None
        waiter = self.create_future()
        tls_protocol = self.make_tls_protocol(
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        # Bytes that arrive before the handshake starts must not be taken for plain text.
        transport.pause_reading()
        if server_side:
            move_buffered_data(protocol, tls_protocol)
        transport.set_protocol(tls_protocol)
        if getattr(transport, "_protocol_paused", False):
            # The plain transport has called the protocol's pause_writing.
            tls_protocol.start_paused()
        begin = self.call_soon(tls_protocol.connection_made, transport)
        resume = self.call_soon(transport.resume_reading)
        if getattr(transport, "_connection", None) and transport._connection.at_eof:
            # The peer's end of file has been reported already, and is reported only once.
            self.call_soon(tls_protocol.eof_received)
        try:
            await waiter
        except BaseException:
            transport.close()
            begin.cancel()
            resume.cancel()
            # The waiter's exception refers to this frame, and so to the transport: a cycle.
            del waiter
            raise
        if not tls_protocol.handshake_done:
            begin.cancel()
            resume.cancel()
            return None
        return cast("asyncio.Transport", tls_protocol.app_transport)


def check_tls_options(
    ssl: Any,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> None:
    """Raise ValueError for a TLS option if `ssl` is false."""
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

    Errors of the addresses before it are appended to `errors`. Raises the last error if no
    address can be bound.
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
    """The exception that create_connection raises if no address could be connected to."""
    if all_errors:
        return ExceptionGroup("create_connection failed", errors)
    if not errors:
        return TimeoutError("create_connection failed")
    if len({str(error) for error in errors}) == 1:
        return errors[0]
    return OSError(f"Multiple exceptions: {', '.join(str(error) for error in errors)}")
