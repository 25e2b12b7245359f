"""The brokers: a nats-server with JetStream or a redis-server, each with a directory of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator

import harness

from noria.compare.loops.row import Unavailable

BROKERS = ("nats", "redis")
_PROGRAMS = {"nats": "nats-server", "redis": "redis-server"}


def program(kind: str) -> str:
    """Return the path of the broker's program. Raises Unavailable."""
    name = _PROGRAMS[kind]
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/bin")
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


@contextlib.contextmanager
def running(kind: str, core: int, where: str | None = None) -> Iterator[str]:
    """Run a new broker on a core for the time of the block; yield its URL.

    Both write their data to files in `where`: JetStream's file storage with its default interval,
    Redis with an append-only file and `appendfsync everysec`.
    """
    port = harness.free_port()
    with tempfile.TemporaryDirectory(prefix="noria-bench-", dir=where) as directory:
        if kind == "nats":
            words = ["-js", "-a", "127.0.0.1", "-p", str(port), "-sd", directory]
        else:
            words = ["--bind", "127.0.0.1", "--port", str(port), "--dir", directory]
            words += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        with harness.serving_port([program(kind), *words], core, port):
            yield f"{kind}://127.0.0.1:{port}"


def address(url: str) -> tuple[str, int]:
    """Return host and port of a broker's URL."""
    host, _, port = url.rpartition("//")[2].partition(":")
    return host, int(port)


def connect(url: str) -> socket.socket:
    """Return a blocking connection to a broker."""
    sock = socket.create_connection(address(url), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
