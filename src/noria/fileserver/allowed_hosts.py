"""By which names a server may be called, against DNS rebinding.

A page of a hostile site whose name is made to lead to this machine would have the server's answers
as its own. Its requests carry that name in their Host field.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

KNOWN = 256  # Host fields whose answers are remembered


class Hosts:
    """`names`: those that are admitted beside this machine's own; "*" admits all.

    Addresses are always admitted: to be called by one proves that no name was made to lead here.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {_plain(name) for name in names} | {_plain(socket.gethostname())}
        self._known: dict[str, bool] = {}

    def admits(self, host: str) -> bool:
        """Whether a request with this Host field is answered."""
        answer = self._known.get(host)
        if answer is None:
            answer = self._admits(_plain(host))
            if len(self._known) < KNOWN:
                self._known[host] = answer
        return answer

    def _admits(self, name: str) -> bool:
        own = name in ("", "localhost") or name.endswith(".localhost")  # RFC 6761, 6.3
        return own or name in self._names or "*" in self._names or _address(name) is not None


def hosts_of(names: Iterable[str], sockets: Iterable[socket.socket]) -> Hosts | None:
    """The names that a server on these sockets goes by; None if it may be called anything.

    Without `names` that depends on where it listens: who reaches it only from this machine calls it
    by one of few names; what a network calls it is not known here.
    """
    names = list(names)
    if names or all(_loopback(sock) for sock in sockets):
        return Hosts(names)
    return None


def _plain(host: str) -> str:
    """The name without a port, brackets, or the dot of the root."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".").lower()


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def loopback(address: str) -> bool:
    """Whether it is an address at which only this machine is reached."""
    found = _address(address)
    return found is not None and found.is_loopback


def _loopback(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6) and loopback(sock.getsockname()[0])
