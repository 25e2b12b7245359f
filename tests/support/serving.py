"""Serve a protocol on any model of noria, and on asyncio's own loop as a reference.

A test passes a protocol class and receives an address, on every model alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import noria
from noria.servers.echo import Echo

LIMIT = 10.0  # seconds to wait for any condition
ORACLE = "asyncio"
NAMES = (*noria.MODELS, ORACLE)

__all__ = [
    "LIMIT",
    "NAMES",
    "ORACLE",
    "AsyncioServing",
    "Echo",
    "NoriaServing",
    "Recorder",
    "connect",
    "read_all",
    "read_exactly",
    "reset",
    "until",
]


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until the condition is true, at most LIMIT seconds; return its value."""
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {LIMIT} s: {what or condition}"
        time.sleep(0.002)
    return value


def connect(address: Any) -> socket.socket:
    """Connect a client socket with a timeout to (host, port, ...) or the path of a Unix socket."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT)
        sock.connect(address)
        return sock
    return socket.create_connection(address[:2], LIMIT)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive `size` bytes, or fewer if the stream ends before."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(min(size - len(data), 1 << 20))
        if not part:
            break
        data += part
    return bytes(data)


def read_all(sock: socket.socket) -> bytes:
    """Receive until EOF."""
    data = bytearray()
    while part := sock.recv(1 << 20):
        data += part
    return bytes(data)


def reset(sock: socket.socket) -> None:
    """Close the connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


class Recorder(asyncio.Protocol):
    """Records its callbacks in order. A subclass adds what its test needs."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.got = bytearray()
        self.error: BaseException | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self.got += data
        if self.calls[-1] != "data":
            self.calls.append("data")

    def eof_received(self) -> bool | None:
        self.calls.append("eof")
        return None

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, error: BaseException | None) -> None:
        self.calls.append("lost")
        self.error = error

    @property
    def lost(self) -> bool:
        return "lost" in self.calls


class Serving:
    """A server in its own thread."""

    name: str
    logger: str

    def __init__(self) -> None:
        self.protocols: list[Any] = []  # all protocols created by the factory, in order
        self.errors_expected = False

    def factory(self, make: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Any:
            protocol = make()
            self.protocols.append(protocol)
            return protocol

        return made

    @property
    def one_at_a_time(self) -> bool:
        """Whether a second client waits until the first has disconnected."""
        return self.name == "blocking"

    @property
    def waits_in_write(self) -> bool:
        """Whether `write` blocks until everything is sent, so that writing is never paused."""
        return self.name == "blocking"

    def start(self, make: Callable[[], Any], **where: Any) -> Any:
        """Start serving and return the address: a socket name for TCP, the path for Unix."""
        raise NotImplementedError

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on the loop; return its result or raise its exception."""
        answer: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

        def run() -> None:
            try:
                answer.put((function(*args), None))
            except BaseException as error:
                answer.put((None, error))

        self.call_soon_threadsafe(run)
        result, error = answer.get(timeout=LIMIT)
        if error is not None:
            raise error
        return result

    def call_soon_threadsafe(self, function: Callable[..., Any]) -> None:
        raise NotImplementedError

    def protocol(self, index: int = 0) -> Any:
        """Return the protocol of the connection with this index, once it is created."""
        until(lambda: len(self.protocols) > index, "the connection was not accepted")
        protocol = self.protocols[index]
        until(lambda: getattr(protocol, "transport", None) is not None, "connection_made")
        return protocol

    def stop(self) -> None:
        raise NotImplementedError


class NoriaServing(Serving):
    """noria.Reactor(model).listen(...)."""

    logger = "noria"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.thread: threading.Thread | None = None

    def start(self, make: Callable[[], Any], **where: Any) -> Any:
        started: queue.Queue[Any] = queue.Queue()

        def serve() -> None:
            try:
                with noria.Reactor(self.name, interval=0.0002) as reactor:
                    server = reactor.listen(self.factory(make), **where)
                    self.reactor = reactor
                    started.put(server.listeners[0].sockname)
                    reactor.run()
                    self.left = len(server.streams)
            except BaseException as error:
                started.put(error)
                self.failure = error

        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=serve, name=f"serving-{self.name}")
        self.thread.start()
        address = started.get(timeout=LIMIT)
        if isinstance(address, BaseException):
            self.thread.join()
            raise address
        return address

    def call_soon_threadsafe(self, function: Callable[..., Any]) -> None:
        self.reactor.call_soon_threadsafe(function)

    def stop(self) -> None:
        if self.thread is not None:
            if self.thread.is_alive():
                self.reactor.stop()
            self.thread.join(LIMIT)
            assert not self.thread.is_alive(), "the reactor did not stop"
            assert self.failure is None, self.failure


class AsyncioServing(Serving):
    """Serves on asyncio's selector loop."""

    name = ORACLE
    logger = "asyncio"
    thread: threading.Thread | None = None

    def start(self, make: Callable[[], Any], **where: Any) -> Any:
        started: queue.Queue[Any] = queue.Queue()

        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            self.ending = asyncio.Event()
            factory = self.factory(make)
            path = where.pop("unix", None)
            if path is not None:
                server = await self.loop.create_unix_server(factory, path)
            else:
                server = await self.loop.create_server(
                    factory, where.get("host", "127.0.0.1"), 0, backlog=1024
                )
            started.put(server.sockets[0].getsockname())
            await self.ending.wait()
            server.close()
            for protocol in self.protocols:
                transport = getattr(protocol, "transport", None)
                if transport is not None and transport.get_protocol() is not None:
                    # asyncio raises here if the transport is closed
                    transport.abort()
            for _ in range(3):
                await asyncio.sleep(0)

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:
                started.put(error)
                raise

        self.thread = threading.Thread(target=run, name="serving-asyncio")
        self.thread.start()
        address = started.get(timeout=LIMIT)
        if isinstance(address, BaseException):
            raise address
        return address

    def call_soon_threadsafe(self, function: Callable[..., Any]) -> None:
        self.loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        if self.thread is not None:
            with contextlib.suppress(RuntimeError):  # already stopped
                self.loop.call_soon_threadsafe(self.ending.set)
            self.thread.join(LIMIT)
            assert not self.thread.is_alive()
