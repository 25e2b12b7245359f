"""noria.Reactor: handlers, events, calls, timers, signals, operations, and trouble."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import noria
from noria import READ, WRITE, Reactor, models
from noria.servers.echo import Echo
from support.running import finish, line, start

LIMIT = 10.0
WATCHING = tuple(
    name for name in noria.MODELS if models.info(name).capabilities["readiness"] != "none"
)


def made(name: str) -> Reactor:
    works, why_not = models.availability(name)
    if not works:
        pytest.skip(why_not)
    return Reactor(name, interval=0.0005)


@pytest.fixture(params=noria.MODELS)
def reactor(request: pytest.FixtureRequest) -> Iterator[Reactor]:
    """A reactor of every model."""
    with made(request.param) as reactor:
        yield reactor


@pytest.fixture(params=WATCHING)
def watching(request: pytest.FixtureRequest) -> Iterator[Reactor]:
    """A reactor of every model that can watch readiness."""
    with made(request.param) as reactor:
        yield reactor


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    with here, there:
        yield here, there


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def run_until(reactor: Reactor, condition: Callable[[], Any]) -> None:
    """Turns until the condition holds, LIMIT seconds at most."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "not in time"
        reactor.run_once(0.05)


# Watching descriptors.


def test_the_classic_echo_server(watching: Reactor, listener: socket.socket) -> None:
    def accept(sock: socket.socket, mask: int) -> None:
        connection, _ = sock.accept()
        connection.setblocking(False)
        watching.register(connection, READ, read)

    def read(connection: socket.socket, mask: int) -> None:
        data = connection.recv(1000)
        if data:
            connection.sendall(data)
        else:
            watching.unregister(connection)
            connection.close()

    watching.register(listener, READ, accept)
    answers: list[bytes] = []

    def client() -> None:
        try:
            for number in range(10):
                with socket.create_connection(listener.getsockname(), LIMIT) as sock:
                    for turn in range(5):
                        sock.sendall(b"%d-%d" % (number, turn))
                        answers.append(sock.recv(100))
        finally:
            watching.stop()

    thread = threading.Thread(target=client)
    thread.start()
    watching.run()
    thread.join()
    assert answers == [b"%d-%d" % (number, turn) for number in range(10) for turn in range(5)]
    run_until(watching, lambda: len(watching.registrations) == 1)


def test_the_handler_gets_the_file_object_and_the_mask(watching: Reactor, pair: Any) -> None:
    here, there = pair
    told: list[tuple[Any, int]] = []

    def handler(fileobj: Any, mask: int) -> None:
        told.append((fileobj, mask))
        if mask & READ and watching.model == "nonblocking":
            here.recv(1)  # it asks by calling: BlockingIOError is "not yet"
        if mask & READ:
            watching.unregister(here)

    there.send(b"x")
    key = watching.register(here, READ, handler)
    assert (key.fileobj, key.fd, key.events, key.data) == (here, here.fileno(), READ, handler)
    run_until(watching, lambda: told)
    assert told == [(here, READ)]
    there.send(b"y")
    watching.run_once(0.02)
    assert told == [(here, READ)], "unregistered"


def test_a_number_may_stand_for_the_file(watching: Reactor) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    told: list[Any] = []

    def handler(fd: int, mask: int) -> None:
        told.append((fd, os.read(fd, 10)))

    try:
        watching.register(reader, READ, handler)
        os.write(writer, b"abc")
        run_until(watching, lambda: told)
        assert told == [(reader, b"abc")]
        watching.unregister(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_room_to_write_and_modify(watching: Reactor, pair: Any) -> None:
    here, there = pair
    told: list[tuple[str, int]] = []

    def reading(fileobj: Any, mask: int) -> None:
        here.recv(100)
        told.append(("reading", mask))

    def both(fileobj: Any, mask: int) -> None:
        told.append(("both", mask))

    watching.register(here, READ, reading)
    watching.run_once(0.01)
    assert told == []
    watching.modify(here, READ | WRITE, both)
    run_until(watching, lambda: told)
    assert told[0][0] == "both"
    assert told[0][1] & WRITE, "it could be written to all along, and this is the first to ask"
    watching.modify(here, READ, reading)
    told.clear()
    watching.run_once(0.01)
    assert told == []
    there.send(b"x")
    run_until(watching, lambda: told)
    assert told == [("reading", READ)]
    watching.unregister(here)


def test_what_register_refuses(watching: Reactor, pair: Any) -> None:
    here, there = pair

    def never(fileobj: Any, mask: int) -> None:
        raise AssertionError

    watching.register(here, READ, never)
    with pytest.raises(KeyError, match="registered already"):
        watching.register(here, READ, never)
    with pytest.raises(KeyError, match="registered already"):
        watching.register(here.fileno(), WRITE, never)
    for events in (0, 8, READ | 16):
        with pytest.raises(ValueError, match="READ, WRITE or both"):
            watching.register(there, events, never)
        with pytest.raises(ValueError, match="READ, WRITE or both"):
            watching.modify(here, events, never)
    with pytest.raises(KeyError, match="not registered"):
        watching.unregister(there)
    with pytest.raises(KeyError, match="not registered"):
        watching.modify(there, READ, never)
    with pytest.raises(ValueError, match="-1"):
        watching.register(-1, READ, never)
    closed = os.open("/dev/null", os.O_RDONLY)
    os.close(closed)
    with pytest.raises(OSError, match="Bad file descriptor"):
        watching.register(closed, READ, never)
    assert watching.unregister(here).fileobj is here
    with pytest.raises(KeyError):
        watching.unregister(here)


def test_a_socket_closed_without_unregister(watching: Reactor) -> None:
    """Its number may be used again, and the new owner is told of its own bytes alone."""
    told: list[tuple[int, bytes]] = []

    def handler_of(number: int) -> Callable[[socket.socket, int], None]:
        def handler(sock: socket.socket, mask: int) -> None:
            told.append((number, sock.recv(100)))

        return handler

    for number in range(50):
        here, there = socket.socketpair()
        here.setblocking(False)
        watching.register(here, READ, handler_of(number))
        there.send(b"%d" % number)
        run_until(watching, lambda number=number: len(told) > number)
        here.close()
        there.close()
    assert told == [(number, b"%d" % number) for number in range(50)]


def test_a_socket_closed_while_it_is_watched(watching: Reactor, pair: Any, caplog: Any) -> None:
    """The others go on; its own handler is called once more at most, and finds out by itself."""
    here, there = pair
    told: list[bytes] = []
    watching.register(here, READ, lambda sock, _: told.append(sock.recv(100)))
    closed, other = socket.socketpair()
    with closed, other:
        closed.setblocking(False)
        calls: list[int] = []

        def handler(sock: socket.socket, mask: int) -> None:
            calls.append(mask)
            sock.recv(100)

        watching.register(closed, READ, handler)
        watching.run_once(0)
        calls.clear()
        closed.close()
        assert other.recv(1) == b""  # at once, and not when the model lets it go
        there.send(b"x")
        run_until(watching, lambda: told)
        for _ in range(5):
            watching.run_once(0.001)
        assert len(calls) <= 1
        there.send(b"y")
        run_until(watching, lambda: len(told) == 2)
        if not calls:
            watching.unregister(closed)
        else:
            assert "Bad file descriptor" in caplog.text
    watching.unregister(here)


@pytest.mark.parametrize("name", ["epoll", "epoll-edge", "io_uring"])
def test_a_regular_file_is_refused_by_the_kernel(name: str, tmp_path: Any) -> None:
    with made(name) as reactor, (tmp_path / "file").open("wb") as file:
        with pytest.raises(PermissionError):
            reactor.register(file, WRITE, print)
        with pytest.raises(KeyError):
            reactor.unregister(file)


def test_streams_and_listeners_closed_by_others(watching: Reactor, caplog: Any) -> None:
    """Their descriptors are closed: the loop goes on."""
    server = watching.listen(Echo)
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address) as client, socket.create_connection(address) as other:
        run_until(watching, lambda: len(server.streams) == 2)
        first = next(iter(server.streams))
        doomed = client
        if first.get_extra_info("peername") != client.getsockname():
            doomed, other = other, client
        os.close(first.fileno())
        other.send(b"x")
        other.setblocking(False)
        received = bytearray()

        def answered() -> bool:
            try:
                received.extend(other.recv(10))
            except BlockingIOError:
                return False
            return True

        run_until(watching, answered)
        assert received == b"x"
        for _ in range(5):
            watching.run_once(0.001)
        first.abort()
        run_until(watching, lambda: len(server.streams) == 1)
        assert doomed is not other
    server.close()


@pytest.mark.parametrize("kind", ["listener", "datagrams"])
def test_listeners_and_datagram_sockets_closed_by_others(
    watching: Reactor, kind: str, caplog: Any
) -> None:
    """One report at most, and the loop goes on."""
    errors: list[BaseException] = []

    class Protocol(asyncio.DatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            errors.append(exc)

    sock = socket.socket(type=socket.SOCK_STREAM if kind == "listener" else socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    address = sock.getsockname()
    fd = sock.fileno()
    if kind == "listener":
        sock.listen()
        watching.listen(Echo, sock=sock)
    else:
        watching.datagram(Protocol, sock)
    watching.run_once(0)
    with socket.socket(type=sock.type) as other:
        if kind == "listener":
            os.close(fd)  # the reactor has it from the socket object
        else:
            sock.close()
        with contextlib.suppress(ConnectionError):
            other.connect(address)
            other.sendall(b"x")
        for _ in range(20):
            watching.run_once(0.001)
    assert len(errors) + len(caplog.records) <= 1


def test_a_handler_that_raises_loses_its_own(watching: Reactor, pair: Any, caplog: Any) -> None:
    here, there = pair
    other, beside = socket.socketpair()
    other.setblocking(False)
    told: list[bytes] = []
    with other, beside:

        def raises(sock: socket.socket, mask: int) -> None:
            sock.recv(10)
            raise RuntimeError("from the handler")

        watching.register(here, READ, raises)
        watching.register(other, READ, lambda sock, mask: told.append(sock.recv(10)))
        there.send(b"x")
        beside.send(b"y")
        run_until(watching, lambda: told and here.fileno() == -1)
        assert there.recv(10) == b"", "its connection was closed"
        beside.send(b"z")
        run_until(watching, lambda: len(told) == 2)
        assert "from the handler" in caplog.text
        assert len(watching.registrations) == 1
        watching.unregister(other)


def test_a_listeners_handler_that_raises_goes_on(
    watching: Reactor, listener: socket.socket, caplog: Any
) -> None:
    accepted: list[socket.socket] = []

    def accept(sock: socket.socket, mask: int) -> None:
        accepted.append(sock.accept()[0])
        if len(accepted) == 1:
            raise RuntimeError("in accept")

    watching.register(listener, READ, accept)
    try:
        for number in (1, 2):
            with socket.create_connection(listener.getsockname(), LIMIT):
                run_until(watching, lambda number=number: len(accepted) == number)
    finally:
        for sock in accepted:
            sock.close()
    assert caplog.text.count("RuntimeError: in accept") == 1


def test_a_listener_without_descriptors_rests(
    watching: Reactor, listener: socket.socket, caplog: Any
) -> None:
    """A handler that finds EMFILE is left alone for a while, and told again afterwards."""
    calls: list[float] = []
    accepted: list[socket.socket] = []

    def accept(sock: socket.socket, mask: int) -> None:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        accepted.append(sock.accept()[0])

    watching.register(listener, READ, accept)
    with socket.create_connection(listener.getsockname(), LIMIT):
        run_until(watching, lambda: accepted)
    accepted[0].close()
    assert calls[1] - calls[0] >= 0.2
    assert calls[2] - calls[1] >= 0.2
    assert caplog.text.count("accepting resumes in 0.25 s") == 2


def test_both_ends_closed_by_one_handler(watching: Reactor) -> None:
    """What was found in the same wait is not told to a handler that is gone."""
    pairs = [socket.socketpair() for _ in range(10)]
    told: list[socket.socket] = []

    def first_come(sock: socket.socket, mask: int) -> None:
        sock.recv(1)
        told.append(sock)
        for here, _ in pairs:
            watching.unregister(here)
            here.close()

    for here, there in pairs:
        here.setblocking(False)
        there.send(b"x")
        watching.register(here, READ, first_come)
    run_until(watching, lambda: told)
    watching.run_once(0.01)
    assert len(told) == 1
    for _, there in pairs:
        there.close()


# The program's own events.


def test_on_off_emit(reactor: Reactor) -> None:
    told: list[Any] = []
    reactor.on("upload.finished", lambda name: told.append(("first", name)))
    reactor.on("upload.finished", lambda name: told.append(("second", name)))

    def third(name: str) -> None:
        told.append(("third", name))

    reactor.on("upload.finished", third)
    reactor.emit("upload.finished", name="a.txt")
    reactor.emit("nobody.cares", event="data may be named event")
    assert told == [], "it goes through the queue"
    reactor.run_once(0)
    assert told == [("first", "a.txt"), ("second", "a.txt"), ("third", "a.txt")]
    reactor.off("upload.finished", third)
    with pytest.raises(KeyError, match=r"no handler of 'upload\.finished'"):
        reactor.off("upload.finished", third)
    with pytest.raises(KeyError, match="no handler"):
        reactor.off("unknown", third)
    told.clear()
    reactor.emit("upload.finished", name="b.txt")
    reactor.run_once(0)
    assert told == [("first", "b.txt"), ("second", "b.txt")]


def test_an_event_handler_that_raises_keeps_none_from_theirs(reactor: Reactor, caplog: Any) -> None:
    told: list[int] = []

    def boom() -> None:
        raise RuntimeError("in an event")

    reactor.on("event", boom)
    reactor.on("event", lambda: told.append(1))
    reactor.emit("event")
    reactor.run_once(0)
    assert told == [1]
    assert "in an event" in caplog.text


def test_events_calls_and_io_in_one_order(watching: Reactor, pair: Any) -> None:
    """What a handler emits and calls comes after what was in the queue, in the order it was put."""
    here, there = pair
    order: list[str] = []
    watching.on("event", lambda tag: order.append(f"event {tag}"))

    def handler(sock: socket.socket, mask: int) -> None:
        sock.recv(10)
        order.append("io")
        watching.emit("event", tag=2)
        watching.call_soon(order.append, "call 2")
        watching.emit("event", tag=3)
        watching.call_soon(watching.stop)

    watching.emit("event", tag=1)
    watching.call_soon(order.append, "call 1")
    there.send(b"x")
    watching.register(here, READ, handler)
    watching.run()
    assert order == ["event 1", "call 1", "io", "event 2", "call 2", "event 3"]
    watching.unregister(here)


def test_emit_from_other_threads(reactor: Reactor) -> None:
    """10,000 from eight threads while it runs: none lost, each thread's in order."""
    told: list[tuple[int, int]] = []

    def handler(thread: int, number: int) -> None:
        told.append((thread, number))
        if len(told) == 10_000:
            reactor.stop()

    reactor.on("event", handler)

    def emitter(thread: int) -> None:
        for number in range(1250):
            reactor.emit("event", thread=thread, number=number)

    threads = [threading.Thread(target=emitter, args=(number,)) for number in range(8)]
    reactor.call_later(LIMIT, reactor.stop)
    reactor.call_soon(lambda: [thread.start() for thread in threads])
    reactor.run()
    for thread in threads:
        thread.join()
    assert len(told) == 10_000
    for number in range(8):
        assert [n for thread, n in told if thread == number] == list(range(1250))


# Calls, timers, stopping.


def test_calls_in_order_and_cancelled(reactor: Reactor) -> None:
    order: list[int] = []
    handles = [reactor.call_soon(order.append, number) for number in range(6)]
    handles[1].cancel()
    handles[4].cancel()
    handles[4].cancel()
    reactor.call_soon(lambda: reactor.call_soon(order.append, 99))
    reactor.run_once(0)
    assert order == [0, 2, 3, 5], "what a call puts in the queue has its turn next"
    reactor.run_once(0)
    assert order == [0, 2, 3, 5, 99]


def test_timers_in_order_and_cancelled(reactor: Reactor) -> None:
    order: list[str] = []
    start = reactor.time()
    reactor.call_later(0.03, order.append, "third")
    reactor.call_later(0.01, order.append, "first")
    reactor.call_at(start + 0.02, order.append, "second")
    reactor.call_later(0.015, order.append, "never").cancel()
    same = start + 0.04
    for number in range(3):
        reactor.call_at(same, order.append, f"same {number}")
    reactor.call_later(-1, order.append, "at once")
    late = reactor.call_later(0.05, reactor.stop)
    reactor.run()
    assert order == ["at once", "first", "second", "third", "same 0", "same 1", "same 2"]
    assert reactor.time() >= late.when() >= start + 0.05
    late.cancel()


def test_a_sleeping_reactor_is_woken_from_another_thread(reactor: Reactor) -> None:
    """Nothing to watch and no timer: only the call can end the wait."""
    told: list[float] = []

    def call() -> None:
        time.sleep(0.05)
        reactor.call_soon_threadsafe(told.append, time.monotonic())
        time.sleep(0.05)
        reactor.stop()

    thread = threading.Thread(target=call)
    thread.start()
    reactor.run()
    thread.join()
    assert len(told) == 1


def test_it_sleeps_while_there_is_nothing_to_do(reactor: Reactor) -> None:
    before = time.thread_time()
    reactor.call_later(0.2, reactor.stop)
    reactor.run()
    assert time.thread_time() - before < 0.05


def test_run_once_of_zero_does_not_wait(reactor: Reactor) -> None:
    before = time.monotonic()
    for _ in range(50):
        reactor.run_once(0)
    assert time.monotonic() - before < LIMIT / 2


def test_stop_from_a_handler_ends_after_the_turn(reactor: Reactor) -> None:
    order: list[str] = []
    reactor.call_soon(reactor.stop)
    reactor.call_soon(order.append, "same turn")
    reactor.call_soon(lambda: reactor.call_soon(order.append, "next turn"))
    reactor.run()
    assert order == ["same turn"]
    reactor.call_soon(reactor.stop)
    reactor.run()
    assert order == ["same turn", "next turn"]


def test_run_is_refused_while_running(reactor: Reactor) -> None:
    errors: list[str] = []

    def again() -> None:
        for function in (reactor.run, reactor.run_once, reactor.loop.close):
            try:
                function()
            except RuntimeError as error:
                errors.append(str(error))
        reactor.stop()

    reactor.call_soon(again)
    reactor.run()
    assert len(errors) == 3
    assert all("running" in error for error in errors)


def test_closed_is_closed(reactor: Reactor) -> None:
    reactor.run_once(0)
    reactor.close()
    reactor.close()
    for function in (lambda: reactor.call_soon(print), reactor.run, lambda: reactor.run_once(0)):
        with pytest.raises(RuntimeError, match="closed"):
            function()
    assert "closed" in repr(reactor)


def test_close_releases_everything(reactor: Reactor) -> None:
    """Open servers, connections both ways, timers: the leak check of each test does the rest."""
    if reactor.model == "blocking":
        server = reactor.listen(Echo)
        client = socket.create_connection(("127.0.0.1", server.port), LIMIT)
        run_until(reactor, lambda: len(server.streams) == 1)
        reactor.close()
        assert client.recv(1) == b""
        client.close()
        return
    server = reactor.listen(Echo)
    lost: list[Any] = []

    class Client(asyncio.Protocol):
        def connection_lost(self, error: BaseException | None) -> None:
            lost.append(error)

    for _ in range(5):
        reactor.connect(Client, ("127.0.0.1", server.port))
    reactor.call_later(3600, print)
    run_until(reactor, lambda: len(server.streams) == 5)
    reactor.close()
    assert len(server.streams) == 0


def test_a_stop_before_the_run_is_kept(reactor: Reactor) -> None:
    """A thread may be done before the one that runs has begun."""
    calls: list[int] = []
    reactor.call_soon(calls.append, 1)
    thread = threading.Thread(target=reactor.stop)
    thread.start()
    thread.join()
    reactor.call_later(LIMIT, reactor.stop)
    began = time.monotonic()
    reactor.run()
    assert calls == [1]
    assert time.monotonic() - began < LIMIT
    # It counts once.
    reactor.call_later(0.001, calls.append, 2)
    reactor.call_later(0.002, reactor.stop)
    reactor.run()
    assert calls == [1, 2]


@pytest.mark.parametrize("begun_by", ["the program", "a handler"])
def test_an_endless_chain_of_calls_starves_no_socket(reactor: Reactor, begun_by: str) -> None:
    calls = [0]

    class Chained(Echo):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not calls[0]:
                again()

    server = reactor.listen(Chained)

    def again() -> None:
        calls[0] += 1
        reactor.call_soon(again)

    if begun_by == "the program":
        reactor.call_soon(again)
    answer: list[bytes] = []

    def client() -> None:
        try:
            with socket.create_connection(("127.0.0.1", server.port), LIMIT) as sock:
                for _ in range(50):
                    sock.sendall(b"hello")
                    answer.append(sock.recv(10))
        finally:
            reactor.stop()

    thread = threading.Thread(target=client)
    thread.start()
    reactor.run()
    thread.join()
    assert answer == [b"hello"] * 50
    assert calls[0] > 10, "it was no chain"


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
    reactor.close()  # the kernel may have its socket until then, and the server waits for its end


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
    """ECONNREFUSED of an earlier datagram is told, and the socket goes on."""
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


def test_a_cancelled_operation_calls_nobody(reactor: Reactor, tmp_path: Any) -> None:
    told: list[Any] = []
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as file:
        operation = reactor.read(file, 100, 0, lambda *result: told.append(result))
        reactor.cancel(operation)
        reactor.read(file, 1, 0, lambda *result: reactor.call_later(0.02, reactor.stop))
        reactor.run()
    assert told == []


# Limits.


def test_what_a_model_cannot_do_names_what_can() -> None:
    for name in ("blocking", "threaded"):
        with Reactor(name) as reactor:
            here, there = socket.socketpair()
            with here, there, pytest.raises(noria.Unsupported) as caught:
                reactor.register(here, READ, print)
            text = str(caught.value)
            assert f"'{name}'" in text
            assert "epoll" in text
    with Reactor("blocking") as reactor:
        reactor.listen(Echo)
        with pytest.raises(noria.ModelLimit, match=r"one accept only.*'threaded' or 'epoll'"):
            reactor.listen(Echo)


def test_unknown_models() -> None:
    with pytest.raises(noria.UnknownModel, match=r"did you mean 'epoll'.*blocking, threaded"):
        Reactor("epol")
    with pytest.raises(ValueError, match="interval"):
        Reactor("nonblocking", interval=-1)


def test_capabilities_are_those_of_the_table(reactor: Reactor) -> None:
    for kind, word in models.info(reactor.model).capabilities.items():
        assert reactor.capability(kind) == word
    with pytest.raises(KeyError):
        reactor.capability("juggling")


# Signals, each in a process of its own.

SIGNALS = """
import os, signal, sys, threading, time
from noria import Reactor

with Reactor(sys.argv[1]) as reactor:
    told = []
    reactor.signal(signal.SIGUSR1, lambda number: (told.append(number), reactor.stop()))
    kill = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    kill.start()
    reactor.run()
    assert told == [signal.SIGUSR1], told
    kill.join()
    reactor.signal(signal.SIGUSR1, None)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    print("ready", flush=True)
    try:
        reactor.run()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    reactor.call_soon(reactor.stop)
    reactor.run()   # it can be run again
    print("again", flush=True)
"""


@pytest.mark.parametrize("name", noria.MODELS)
def test_signals(name: str) -> None:
    made(name).close()
    process = start(SIGNALS, name)
    assert line(process) == "ready"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, out.split()) == (0, ["interrupted", "again"]), err
    assert err == ""


def test_signals_need_the_main_thread() -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        with Reactor("epoll") as reactor:
            try:
                reactor.signal(signal.SIGUSR1, print)
            except ValueError as error:
                errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1


# Running out of descriptors, each in a process of its own.

SERVER = """
import fcntl, logging, os, resource, sys, threading
from noria import Reactor
from noria.servers.echo import Echo

logging.basicConfig(format="%(message)s")
# Before the reactor is made: io_uring notes the limit with its request.
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
with Reactor(sys.argv[1]) as reactor:
    server = reactor.listen(Echo)
    def command():
        for text in sys.stdin:
            word = text.strip()
            if word == "fill":
                while os.open("/dev/null", os.O_RDONLY) < 1100: pass
            elif word == "cpu":
                usage = resource.getrusage(resource.RUSAGE_SELF)
                print(usage.ru_utime + usage.ru_stime, flush=True)
                continue
            print("done", flush=True)
        reactor.stop()
    print(server.port, flush=True)
    thread = threading.Thread(target=command)
    thread.start()
    reactor.run()
    thread.join()
"""


def ask(process: subprocess.Popen[str], command: str) -> str:
    assert process.stdin is not None
    process.stdin.write(command + "\n")
    process.stdin.flush()
    return line(process)


def echo_once(sock: socket.socket, data: bytes = b"hello") -> bool:
    """True if the answer comes; False if the connection is closed first."""
    try:
        sock.sendall(data)
        return sock.recv(100) == data
    except ConnectionError:
        return False


@pytest.mark.parametrize("name", [name for name in noria.MODELS if name != "blocking"])
def test_out_of_descriptors(name: str) -> None:
    """The listener neither spins nor dies; service resumes when descriptors are free."""
    made(name).close()
    process = start(SERVER, name, "24")
    try:
        address = ("127.0.0.1", int(line(process)))
        clients = [socket.create_connection(address, LIMIT) for _ in range(40)]
        try:
            served = []
            for client in clients:
                client.settimeout(0.1 if served else LIMIT)
                try:
                    if not echo_once(client):
                        break
                except TimeoutError:
                    break
                served.append(client)
            assert 0 < len(served) < 30, process.kill() or process.communicate()
            before = float(ask(process, "cpu"))
            time.sleep(0.5)
            spent = float(ask(process, "cpu")) - before
            assert spent < 0.25, f"it spins: {spent} s of processor time in 0.5 s"
            assert echo_once(served[0]), "those that are served still are"
            waiting = clients[len(served)]
            waiting.settimeout(LIMIT)
            for client in served:
                client.close()
            assert waiting.recv(100) == b"hello", "it waited in the backlog and is served now"
        finally:
            for client in clients:
                client.close()
        with socket.create_connection(address, LIMIT) as client:
            assert echo_once(client)
    finally:
        status, _, err = finish(process)
    assert status == 0, err
    assert "Too many open files" in err
    assert len(err.splitlines()) < 30, "it says so at every attempt"


def test_select_and_a_high_descriptor() -> None:
    """That one connection is closed with the error in the log; the server goes on."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("the hard limit of descriptors is below 4096")
    process = start(SERVER, "select", "4096")
    try:
        address = ("127.0.0.1", int(line(process)))
        with socket.create_connection(address, LIMIT) as low:
            assert echo_once(low)
            ask(process, "fill")
            for _ in range(2):
                with socket.create_connection(address, LIMIT) as high:
                    assert high.recv(1) == b""
            assert echo_once(low), "the server goes on"
    finally:
        status, _, err = finish(process)
    assert status == 0, err
    assert "only numbers below 1024" in err
    assert "'poll', 'epoll' or 'io_uring'" in err


def test_poll_and_a_high_descriptor() -> None:
    process = start(SERVER, "poll", "4096")
    try:
        address = ("127.0.0.1", int(line(process)))
        ask(process, "fill")
        with socket.create_connection(address, LIMIT) as high:
            assert echo_once(high)
    finally:
        status, _, err = finish(process)
    assert (status, err) == (0, "")


def test_threads_wait_while_a_handler_is_busy() -> None:
    """A thread that was told of room tells it once, however long another handler takes."""

    class Busy(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if data == b"much":
                self.transport.write(bytes(20_000_000))
            else:
                before = reactor.loop.model.stats()["waits"]
                time.sleep(0.3)
                waits.append(reactor.loop.model.stats()["waits"] - before)
                self.transport.write(b"done")

    waits: list[int] = []
    with Reactor("threaded") as reactor:
        server = reactor.listen(Busy)
        thread = threading.Thread(target=talk_to_busy, args=(reactor, server.port))
        thread.start()
        reactor.run()
        thread.join()
    assert len(waits) == 1
    assert waits[0] < 100


def talk_to_busy(reactor: Reactor, port: int) -> None:
    address = ("127.0.0.1", port)
    try:
        with (
            socket.create_connection(address, LIMIT) as reader,
            socket.create_connection(address, LIMIT) as busy,
        ):
            reader.sendall(b"much")
            left = 20_000_000 - len(reader.recv(1000))
            busy.sendall(b"x")
            time.sleep(0.05)
            while left:
                left -= len(reader.recv(1 << 20))
            assert busy.recv(10) == b"done"
    finally:
        reactor.stop()


@pytest.mark.parametrize("end", ["cancel", "close"])
@pytest.mark.parametrize("model", ["poll", "epoll", "epoll-edge", "io_uring"])
def test_a_connect_that_is_given_up_closes_its_socket(model: str, end: str) -> None:
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
