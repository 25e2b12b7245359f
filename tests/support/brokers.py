"""Brokers for the tests of the bus: each server on a free port, with a directory of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STARTUP_SECONDS = 20.0

# The command of each server, and the module of its client.
PROGRAMS = {"nats": ("nats-server", "nats"), "redis": ("redis-server", "redis")}


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class BrokerServer:
    """A nats-server with JetStream, or a redis-server that appends to a file.

    `start` and `stop` may be repeated: the port and the data stay.
    """

    def __init__(self, kind: str, directory: Path, *options: str):
        self.kind = kind
        self.options = options
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.kind}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        program = program_path(self.kind)
        assert program is not None
        if self.kind == "nats":
            return [
                *(program, "-js", "-a", "127.0.0.1", "-p", str(self.port)),
                *("-sd", str(self.directory)),
                *self.options,
            ]
        return [
            *(program, "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(self.directory), "--appendonly", "yes", "--appendfsync", "always"),
            *("--save", "", "--daemonize", "no"),
            *self.options,
        ]

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with open(self.directory / "log", "ab") as output:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        end = time.monotonic() + STARTUP_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                log = (self.directory / "log").read_text(errors="replace")
                self.kill()
                raise RuntimeError(f"{self.kind} server did not start:\n{log}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock:
                sock.settimeout(1.0)
                if self.kind == "nats":
                    return sock.recv(4) == b"INFO"
                # While Redis loads its file, it answers with an error.
                sock.sendall(b"PING\r\n")
                return sock.recv(5) in (b"+PONG", b"-NOAU")
        except OSError:
            return False

    def stop(self) -> None:
        """End the server in an orderly way."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def kill(self) -> None:
        """End the server with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


@contextlib.contextmanager
def running(kind: str, directory: Path, *options: str) -> Iterator[BrokerServer]:
    """Run a server; the body may stop, kill and start it. Skips the test as `require` does."""
    require(kind)
    server = BrokerServer(kind, directory, *options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def program_path(kind: str) -> str | None:
    """Return the path of the server's program; None if it is not installed."""
    name = PROGRAMS[kind][0]
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/bin")


def require(kind: str) -> None:
    """Skip the test unless NORIA_BROKERS is set: the README's test command is to be short.

    NORIA_BROKERS=installed skips it if the server or its client is not installed; =required fails.
    """
    chosen = os.environ.get("NORIA_BROKERS")
    if chosen not in ("installed", "required"):
        pytest.skip("only with a broker's server: NORIA_BROKERS=installed, or nox -s bus")
    program, module = PROGRAMS[kind]
    missing = None
    if program_path(kind) is None:
        missing = f"{program} is not installed"
    elif importlib.util.find_spec(module) is None:
        missing = f"the Python package {module} is not installed"
    if missing is not None:
        if chosen == "required":
            pytest.fail(missing)
        pytest.skip(missing)


@contextlib.contextmanager
def redis_client(server: BrokerServer, **options: Any) -> Iterator[Any]:
    """A client of redis-py, as an operator would use."""
    import redis

    with redis.Redis(port=server.port, decode_responses=True, **options) as client:
        yield client
