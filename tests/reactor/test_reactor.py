"""noria.Reactor: registered descriptors, events, calls, timers, and limits of the models."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import noria
from noria import READ, WRITE, Reactor, models
from noria.servers.echo import Echo
from support.reactors import LIMIT, make_reactor, run_until

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
    reported: list[tuple[Any, int]] = []

    def handler(fileobj: Any, mask: int) -> None:
        reported.append((fileobj, mask))
        if mask & READ and watching.model == "nonblocking":
            here.recv(1)  # `nonblocking` polls by calling: BlockingIOError
        if mask & READ:
            watching.unregister(here)

    there.send(b"x")
    key = watching.register(here, READ, handler)
    assert (key.fileobj, key.fd, key.events, key.data) == (here, here.fileno(), READ, handler)
    run_until(watching, lambda: reported)
    assert reported == [(here, READ)]
    there.send(b"y")
    watching.run_once(0.02)
    assert reported == [(here, READ)], "unregistered"


def test_a_number_may_stand_for_the_file(watching: Reactor) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    reported: list[Any] = []

    def handler(fd: int, mask: int) -> None:
        reported.append((fd, os.read(fd, 10)))

    try:
        watching.register(reader, READ, handler)
        os.write(writer, b"abc")
        run_until(watching, lambda: reported)
        assert reported == [(reader, b"abc")]
        watching.unregister(reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_writability_and_modify(watching: Reactor, pair: Any) -> None:
    here, there = pair
    reported: list[tuple[str, int]] = []

    def reading(fileobj: Any, mask: int) -> None:
        here.recv(100)
        reported.append(("reading", mask))

    def both(fileobj: Any, mask: int) -> None:
        reported.append(("both", mask))

    watching.register(here, READ, reading)
    watching.run_once(0.01)
    assert reported == []
    watching.modify(here, READ | WRITE, both)
    run_until(watching, lambda: reported)
    assert reported[0][0] == "both"
    assert reported[0][1] & WRITE, (
        "it was writable before, and this is the first time that it is watched"
    )
    watching.modify(here, READ, reading)
    reported.clear()
    watching.run_once(0.01)
    assert reported == []
    there.send(b"x")
    run_until(watching, lambda: reported)
    assert reported == [("reading", READ)]
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
    """The number may be used again: the new socket's handler gets its bytes only."""
    reported: list[tuple[int, bytes]] = []

    def handler_of(number: int) -> Callable[[socket.socket, int], None]:
        def handler(sock: socket.socket, mask: int) -> None:
            reported.append((number, sock.recv(100)))

        return handler

    for number in range(50):
        here, there = socket.socketpair()
        here.setblocking(False)
        watching.register(here, READ, handler_of(number))
        there.send(b"%d" % number)
        run_until(watching, lambda number=number: len(reported) > number)
        here.close()
        there.close()
    assert reported == [(number, b"%d" % number) for number in range(50)]


def test_a_socket_closed_while_it_is_watched(watching: Reactor, pair: Any, caplog: Any) -> None:
    """The others keep working; its own handler is called once more at most, and its recv fails."""
    here, there = pair
    reported: list[bytes] = []
    watching.register(here, READ, lambda sock, _: reported.append(sock.recv(100)))
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
        assert other.recv(1) == b""  # at once, not when the model drops its reference
        there.send(b"x")
        run_until(watching, lambda: reported)
        for _ in range(5):
            watching.run_once(0.001)
        assert len(calls) <= 1
        there.send(b"y")
        run_until(watching, lambda: len(reported) == 2)
        if not calls:
            watching.unregister(closed)
        else:
            assert "Bad file descriptor" in caplog.text
    watching.unregister(here)


@pytest.mark.parametrize("name", ["epoll", "epoll-edge", "io_uring"])
def test_a_regular_file_is_refused_by_the_kernel(name: str, tmp_path: Any) -> None:
    with make_reactor(name) as reactor, (tmp_path / "file").open("wb") as file:
        with pytest.raises(PermissionError):
            reactor.register(file, WRITE, print)
        with pytest.raises(KeyError):
            reactor.unregister(file)


def test_streams_and_listeners_closed_by_others(watching: Reactor, caplog: Any) -> None:
    """Their descriptors are closed, and the loop keeps running."""
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
    """It is reported once at most, and the loop keeps running."""
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


def test_a_handler_that_raises_has_its_socket_closed(
    watching: Reactor, pair: Any, caplog: Any
) -> None:
    here, there = pair
    other, beside = socket.socketpair()
    other.setblocking(False)
    reported: list[bytes] = []
    with other, beside:

        def raises(sock: socket.socket, mask: int) -> None:
            sock.recv(10)
            raise RuntimeError("from the handler")

        watching.register(here, READ, raises)
        watching.register(other, READ, lambda sock, mask: reported.append(sock.recv(10)))
        there.send(b"x")
        beside.send(b"y")
        run_until(watching, lambda: reported and here.fileno() == -1)
        assert there.recv(10) == b"", "its connection was closed"
        beside.send(b"z")
        run_until(watching, lambda: len(reported) == 2)
        assert "from the handler" in caplog.text
        assert len(watching.registrations) == 1
        watching.unregister(other)


def test_a_listeners_handler_that_raises_stays_registered(
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


def test_a_listener_without_descriptors_pauses(
    watching: Reactor, listener: socket.socket, caplog: Any
) -> None:
    """After EMFILE in its handler, a listening socket is not watched for a while."""
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
    """An event of the same wait is not delivered to a handler that is unregistered."""
    pairs = [socket.socketpair() for _ in range(10)]
    reported: list[socket.socket] = []

    def first_come(sock: socket.socket, mask: int) -> None:
        sock.recv(1)
        reported.append(sock)
        for here, _ in pairs:
            watching.unregister(here)
            here.close()

    for here, there in pairs:
        here.setblocking(False)
        there.send(b"x")
        watching.register(here, READ, first_come)
    run_until(watching, lambda: reported)
    watching.run_once(0.01)
    assert len(reported) == 1
    for _, there in pairs:
        there.close()


# The program's own events.


def test_on_off_emit(reactor: Reactor) -> None:
    reported: list[Any] = []
    reactor.on("upload.finished", lambda name: reported.append(("first", name)))
    reactor.on("upload.finished", lambda name: reported.append(("second", name)))

    def third(name: str) -> None:
        reported.append(("third", name))

    reactor.on("upload.finished", third)
    reactor.emit("upload.finished", name="a.txt")
    reactor.emit("no.handler", event="data may be named event")
    assert reported == [], "it goes through the queue"
    reactor.run_once(0)
    assert reported == [("first", "a.txt"), ("second", "a.txt"), ("third", "a.txt")]
    reactor.off("upload.finished", third)
    with pytest.raises(KeyError, match=r"no handler of 'upload\.finished'"):
        reactor.off("upload.finished", third)
    with pytest.raises(KeyError, match="no handler"):
        reactor.off("unknown", third)
    reported.clear()
    reactor.emit("upload.finished", name="b.txt")
    reactor.run_once(0)
    assert reported == [("first", "b.txt"), ("second", "b.txt")]


def test_other_event_handlers_run_after_one_that_raises(reactor: Reactor, caplog: Any) -> None:
    reported: list[int] = []

    def boom() -> None:
        raise RuntimeError("in an event")

    reactor.on("event", boom)
    reactor.on("event", lambda: reported.append(1))
    reactor.emit("event")
    reactor.run_once(0)
    assert reported == [1]
    assert "in an event" in caplog.text


def test_events_calls_and_io_in_one_order(watching: Reactor, pair: Any) -> None:
    """Events and calls that a handler adds run after those in the queue, in order."""
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
    reported: list[tuple[int, int]] = []

    def handler(thread: int, number: int) -> None:
        reported.append((thread, number))
        if len(reported) == 10_000:
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
    assert len(reported) == 10_000
    for number in range(8):
        assert [n for thread, n in reported if thread == number] == list(range(1250))


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
    reported: list[float] = []

    def call() -> None:
        time.sleep(0.05)
        reactor.call_soon_threadsafe(reported.append, time.monotonic())
        time.sleep(0.05)
        reactor.stop()

    thread = threading.Thread(target=call)
    thread.start()
    reactor.run()
    thread.join()
    assert len(reported) == 1


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
    """Servers, connections and timers are open; the fixture of all tests checks for leaks."""
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
    # It has effect once.
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
