"""Listening sockets: binding them, and a server of one protocol on several of them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria._core.listener import Listener
from noria._core.transport import StreamSet
from noria.net.socket_files import remove_file_of_inode, remove_socket_file
from noria.net.socket_options import set_listening_options

if TYPE_CHECKING:
    import asyncio

    from noria._core.loop import Loop


class Server:
    """The listening sockets of one protocol and their open connections; made by Reactor.listen.

    `streams`: the open connections. `addresses`: the addresses that it listens on, as text.
    """

    def __init__(self, loop: Loop, protocol_factory: Callable[[], asyncio.BaseProtocol]):
        self.loop = loop
        self.protocol_factory = protocol_factory
        self.streams = StreamSet()
        self.listeners: list[Listener] = []
        self.addresses: list[str] = []
        self._unlink: tuple[str, int] | None = None

    def bind_tcp(self, host: str | None, port: int, backlog: int, reuse_port: bool) -> None:
        """Listen on each address of `host`, all with the same port."""
        sockets = tcp_sockets(host, port, reuse_port)
        try:
            for sock in sockets:
                sock.listen(backlog)
                self.add(sock)
        except BaseException:
            self.close()
            for sock in sockets:  # those that were not added
                sock.close()
            raise

    def bind_unix(self, path: str, backlog: int) -> None:
        """Listen on a Unix socket; a socket file without a listening process is replaced."""
        sock = unix_socket(path)
        try:
            if not path.startswith("\0"):
                self._unlink = (path, os.stat(path).st_ino)
            sock.listen(backlog)
            self.add(sock)
        except BaseException:
            self.close()
            sock.close()
            raise

    def add(self, sock: socket.socket) -> None:
        """Accept connections on a listening socket, which the server takes over."""
        name = describe(sock.family, sock.getsockname())
        listener = Listener(self.loop, sock, self.protocol_factory, self.streams)
        self.listeners.append(listener)
        self.addresses.append(name)

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        name: Any = self.listeners[0].sockname
        return int(name[1]) if isinstance(name, tuple) else 0

    def close(self) -> None:
        """Stop accepting; open connections stay open."""
        for listener in self.listeners:
            listener.close()
        if self._unlink is not None and not self.loop.model.inherited:
            path, inode = self._unlink
            self._unlink = None
            remove_file_of_inode(path, inode)

    def abort(self) -> None:
        """Stop accepting and close all connections at once."""
        self.close()
        for stream in self.streams:
            stream.abort()


def describe(family: int, name: Any) -> str:
    """An address as text: ``host:port``, ``[IPv6 host]:port``, a path, or ``@abstract name``."""
    if family == socket.AF_INET6:
        return f"[{name[0]}]:{name[1]}"
    if family == socket.AF_INET:
        return f"{name[0]}:{name[1]}"
    if isinstance(name, bytes):
        return "@" + name[1:].decode(errors="replace")
    return str(name)


def _bind_error(error: OSError, where: str) -> OSError:
    number = error.errno or errno.EINVAL
    return OSError(number, f"cannot listen on {where}: {os.strerror(number)}")


def tcp_sockets(host: str | None, port: int, reuse_port: bool) -> list[socket.socket]:
    """Bound TCP sockets, one for each address of `host` (None: all addresses of this machine)."""
    if not 0 <= port <= 65535:
        raise OSError(errno.EINVAL, f"cannot listen on port {port}: ports are 0 to 65535")
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"cannot find the host {host!r}: {error.args[1]}") from (
            error
        )
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError:
                continue  # this kernel has no IPv6
            made.append(sock)
            set_listening_options(sock, reuse_address=True, reuse_port=reuse_port)
            where: Any = (address[0], port, *address[2:])
            try:
                sock.bind(where)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and len(made) > 1:
                    made.pop().close()  # an address of the host name that is not this machine's
                    continue
                raise _bind_error(error, describe(family, where)) from None
            port = port or sock.getsockname()[1]
    except BaseException:
        for sock in made:
            sock.close()
        raise
    if not made:
        raise OSError(errno.EADDRNOTAVAIL, f"the host {host!r} has no address to listen on")
    return made


def unix_socket(path: str) -> socket.socket:
    """A Unix stream socket bound to `path`; a stale socket file is replaced."""
    if not path:
        raise OSError(errno.ENOENT, "cannot listen on a Unix socket: its path is empty")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        remove_socket_file(path, only_unused=True)
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno is None:  # the path is too long for struct sockaddr_un
            raise OSError(errno.ENAMETOOLONG, f"cannot listen on {path}: {error}") from None
        raise _bind_error(error, path) from None
    return sock
