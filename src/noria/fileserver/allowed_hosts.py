"""The host names that a server accepts, against DNS rebinding.

If the name of a hostile site is made to resolve to this machine, its page can read the server's
responses as its own. Such requests have that name in their Host field.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from noria.http.messages import HTTPException

MAX_CACHED = 256  # Host fields with a cached result


class AllowedHosts:
    """Accepts `names` and this machine's own names; "*" accepts all.

    IP addresses are always accepted: such a request did not use a name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {_normalize(name) for name in names} | {_normalize(socket.gethostname())}
        self._cache: dict[str, bool] = {}

    def allows(self, host: str) -> bool:
        """Whether a request with this Host field is accepted."""
        allowed = self._cache.get(host)
        if allowed is None:
            allowed = self._allows(_normalize(host))
            if len(self._cache) < MAX_CACHED:
                self._cache[host] = allowed
        return allowed

    def check(self, host: str) -> None:
        """Raise HTTPException 421 unless a request with this Host field is accepted."""
        if not self._cache.get(host) and not self.allows(host):
            raise HTTPException(
                421,
                f"The server is not known as {host}. If that is its name, start it with "
                "--allow-host and the name.",
            )

    def _allows(self, name: str) -> bool:
        own = name in ("", "localhost") or name.endswith(".localhost")  # RFC 6761, 6.3
        return own or name in self._names or "*" in self._names or _address(name) is not None


def allowed_hosts_for(
    names: Iterable[str], sockets: Iterable[socket.socket]
) -> AllowedHosts | None:
    """The accepted names of a server that listens on these sockets; None if any name is accepted.

    Without `names`, only a server that listens on loopback addresses restricts them: the names that
    a network uses for this machine are not known here.
    """
    names = list(names)
    if names or all(_listens_on_loopback(sock) for sock in sockets):
        return AllowedHosts(names)
    return None


def _normalize(host: str) -> str:
    """The name without the port, brackets, and the dot of the root."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".").lower()


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Whether the address can be reached from this machine only."""
    found = _address(address)
    return found is not None and found.is_loopback


def _listens_on_loopback(sock: socket.socket) -> bool:
    return sock.family in (socket.AF_INET, socket.AF_INET6) and is_loopback(sock.getsockname()[0])
