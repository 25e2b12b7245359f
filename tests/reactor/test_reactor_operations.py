"""noria.Reactor: connecting, datagrams and files."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from noria import Reactor, models
from noria.net import listening
from support.reactors import LIMIT, run_until

# Connecting.


class Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.got = b""
        self.lost: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)


@pytest.fixture
def echo_thread(tmp_path: Any) -> Iterator[Callable[[str], Any]]:
    """An echo server beside the reactor under test: `echo_thread("ipv4")` gives its address."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(sock: socket.socket) -> None:
        connection, _ = sock.accept()
        with connection:
            while data := connection.recv(1000):
                connection.sendall(data)

    def start(kind: str) -> Any:
        if kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(tmp_path / "echo"))
            sock.listen()
        else:
            host = "::1" if kind == "ipv6" else "127.0.0.1"
            family = socket.AF_INET6 if kind == "ipv6" else socket.AF_INET
            sock = socket.create_server((host, 0), family=family)
        sockets.append(sock)
        threads.append(threading.Thread(target=serve, args=(sock,)))
        threads[-1].start()
        return sock.getsockname()

    yield start
    for thread in threads:
        thread.join(LIMIT)
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "unix"])
def test_connect(reactor: Reactor, echo_thread: Any, kind: str) -> None:
    address = echo_thread(kind)
    done: list[tuple[Any, Any]] = []
    client = Client()
    operation = reactor.connect(lambda: client, address, lambda *result: done.append(result))
    run_until(reactor, lambda: client.got == b"hello")
    assert operation.done
    assert done == [(client.transport, None)]
    assert client.transport.get_extra_info("peername") == address
    client.transport.close()
    run_until(reactor, lambda: client.lost)
    assert client.lost == [None]
    reactor.close()  # the kernel may hold its socket until then, and the server waits for its close


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_connect_refused(reactor: Reactor, tmp_path: Any, caplog: Any) -> None:
    done: list[tuple[Any, Any]] = []
    reactor.connect(Client, ("127.0.0.1", unused_port()), lambda *result: done.append(result))
    reactor.connect(Client, str(tmp_path / "nothing"), lambda *result: done.append(result))
    run_until(reactor, lambda: len(done) == 2)
    errors = {type(error) for _, error in done}
    assert errors == {ConnectionRefusedError, FileNotFoundError}
    assert [transport for transport, _ in done] == [None, None]
    assert not caplog.records
    reactor.connect(Client, ("127.0.0.1", unused_port()))
    run_until(reactor, lambda: caplog.records)
    assert "cannot connect to ('127.0.0.1', " in caplog.text
    assert "Connection refused" in caplog.text


def test_connect_with_a_factory_that_raises(
    reactor: Reactor, echo_thread: Any, caplog: Any
) -> None:
    def boom() -> Any:
        raise RuntimeError("no protocol")

    reactor.connect(boom, echo_thread("ipv4"))
    run_until(reactor, lambda: "no protocol" in caplog.text)


def test_connect_to_what_is_no_address(reactor: Reactor) -> None:
    with pytest.raises(ValueError, match="not a numeric address"):
        reactor.connect(Client, ("localhost", 80))
    with pytest.raises(ValueError, match="107 bytes"):
        reactor.connect(Client, "/" + "x" * 200)


@pytest.mark.parametrize("end", ["cancel", "close"])
@pytest.mark.parametrize("model", ["poll", "epoll", "epoll-edge", "io_uring"])
def test_a_cancelled_connect_closes_its_socket(model: str, end: str) -> None:
    """A full backlog keeps the connect waiting; ResourceWarning is an error in these tests."""
    works, reason = models.availability(model)
    if not works:
        pytest.skip(reason)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        called: list[object] = []
        with noria.Reactor(model) as reactor:
            operation = reactor.connect(
                asyncio.Protocol, address, lambda *result: called.append(result)
            )
            reactor.run_once(0)
            assert not operation.done
            if end == "cancel":
                reactor.cancel(operation)
                reactor.run_once(0)
        del operation
        gc.collect()
        assert called == []
        for filler in fillers:
            filler.close()


# Listening.


def test_sockets_are_closed_if_listening_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """listen(2) fails on the first of two addresses, and on a Unix socket."""

    class Refused(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            raise OSError(errno.EADDRINUSE, "of the test")

    sockets = [Refused(), socket.socket()]
    monkeypatch.setattr(listening, "tcp_sockets", lambda *_: sockets)
    path = tmp_path / "socket"

    def bound(path: str) -> socket.socket:
        sockets.append(Refused(socket.AF_UNIX))
        sockets[-1].bind(path)
        return sockets[-1]

    monkeypatch.setattr(listening, "unix_socket", bound)
    with Reactor("poll") as reactor:
        for where in ({}, {"unix": str(path)}):
            with pytest.raises(OSError, match="of the test"):
                reactor.listen(asyncio.Protocol, **where)
    assert [sock.fileno() for sock in sockets] == [-1] * 3
    assert not path.exists()


# Datagrams.


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.lost: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.got.append((data, address))
        if data.startswith(b"echo"):
            self.transport.sendto(data, address)

    def error_received(self, error: Exception) -> None:
        self.errors.append(error)

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagram_echo(reactor: Reactor, host: str) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    address = sock.getsockname()
    protocol = Datagrams()
    transport = reactor.datagram(lambda: protocol, sock)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(LIMIT)
        client.bind((host, 0))
        for data in (b"echo 1", b"", b"echo" + b"x" * 60_000):
            client.sendto(data, address)
        run_until(reactor, lambda: len(protocol.got) == 3)
        assert [data for data, _ in protocol.got] == [b"echo 1", b"", b"echo" + b"x" * 60_000]
        assert {peer for _, peer in protocol.got} == {client.getsockname()}
        assert client.recv(70_000) == b"echo 1"
        assert len(client.recv(70_000)) == 60_004
    assert transport.get_extra_info("sockname") == address
    transport.close()
    run_until(reactor, lambda: protocol.lost)
    assert protocol.lost == [None]


def test_datagrams_to_a_peer_that_is_not_there(reactor: Reactor) -> None:
    """ECONNREFUSED of an earlier datagram is reported, and the socket stays open."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        address = peer.getsockname()
    sock.connect(address)
    protocol = Datagrams()
    transport = reactor.datagram(lambda: protocol, sock)
    transport.sendto(b"anybody?")
    run_until(reactor, lambda: protocol.errors)
    assert isinstance(protocol.errors[0], ConnectionRefusedError)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(address)
        peer.sendto(b"here", sock.getsockname())
        run_until(reactor, lambda: protocol.got)
    assert protocol.got == [(b"here", address)]
    transport.abort()
    run_until(reactor, lambda: protocol.lost)


def test_datagrams_that_are_aborted_after_the_reactor_is_closed(reactor: Reactor) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    protocol = Datagrams()
    transport = reactor.datagram(lambda: protocol, sock)
    reactor.run_once(0.01)
    reactor.close()
    transport.abort()
    assert sock.fileno() < 0
    assert not protocol.lost, "no event is handled after close"


# Files.


def test_files(reactor: Reactor, tmp_path: Any) -> None:
    done: list[tuple[Any, Any]] = []

    def note(result: Any, error: Any) -> None:
        done.append((result, error))

    path = tmp_path / "file"
    with path.open("w+b") as file:
        reactor.write(file, b"hello, world", 0, note)
        run_until(reactor, lambda: len(done) == 1)
        reactor.fsync(file, note)
        run_until(reactor, lambda: len(done) == 2)
        operation = reactor.read(file, 5, 7, note)
        run_until(reactor, lambda: len(done) == 3)
        reactor.read(file.fileno(), 100, 7, note)
        run_until(reactor, lambda: len(done) == 4)
        reactor.read(file, 100, 1000, note)
        run_until(reactor, lambda: len(done) == 5)
    assert operation.done
    assert done == [(12, None), (0, None), (b"world", None), (b"world", None), (b"", None)]
    assert path.read_bytes() == b"hello, world"


def test_many_reads_at_once(reactor: Reactor, tmp_path: Any) -> None:
    data = bytes(range(256)) * 100
    path = tmp_path / "file"
    path.write_bytes(data)
    got: dict[int, bytes] = {}
    with path.open("rb") as file:
        for offset in range(0, len(data), 256):
            reactor.read(
                file, 256, offset, lambda part, error, offset=offset: got.update({offset: part})
            )
        run_until(reactor, lambda: len(got) == 100)
    assert b"".join(got[offset] for offset in sorted(got)) == data


def test_errors_of_files(reactor: Reactor, tmp_path: Any) -> None:
    done: list[OSError] = []
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        reactor.write(file, b"no", 0, lambda result, error: done.append(error))
        run_until(reactor, lambda: len(done) == 1)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        reactor.read(directory, 10, 0, lambda result, error: done.append(error))
        run_until(reactor, lambda: len(done) == 2)
    finally:
        os.close(directory)
    assert [error.errno for error in done] == [errno.EBADF, errno.EISDIR]
    assert isinstance(done[1], IsADirectoryError)


def test_a_cancelled_operation_calls_no_callback(reactor: Reactor, tmp_path: Any) -> None:
    reported: list[Any] = []
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as file:
        operation = reactor.read(file, 100, 0, lambda *result: reported.append(result))
        reactor.cancel(operation)
        reactor.read(file, 1, 0, lambda *result: reactor.call_later(0.02, reactor.stop))
        reactor.run()
    assert reported == []
