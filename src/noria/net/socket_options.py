"""Options of a listening socket, and of one that shares its port."""

from __future__ import annotations

import socket

INET_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def share_port(sock: socket.socket) -> None:
    """Set SO_REUSEPORT. Raises ValueError if the system does not support it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except (AttributeError, OSError):
        raise ValueError("reuse_port not supported by socket module") from None


def set_listening_options(
    sock: socket.socket, *, reuse_address: bool, reuse_port: bool, keep_alive: bool = False
) -> None:
    """Prepare a TCP socket for bind(2). An IPv6 socket will not accept IPv4 connections.

    `keep_alive` is inherited by the accepted sockets. Raises OSError and ValueError.
    """
    if reuse_address:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Linux 6.12.9 and later refuse SO_REUSEPORT for other families.
    if reuse_port and sock.family in INET_FAMILIES:
        share_port(sock)
    if keep_alive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
