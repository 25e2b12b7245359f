"""The Reactor: registrations, events, timers, streams and datagrams in random order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import noria
from noria import READ, WRITE, Reactor, models
from support.fuzz.harness import LIMIT, fuzz, open_descriptors, some_bytes

WATCHING = tuple(
    name for name in noria.MODELS if models.info(name).capabilities["readiness"] != "none"
)


def available(name: str) -> str:
    works, why_not = models.availability(name)
    if not works:
        pytest.skip(why_not)
    return name


@pytest.fixture(params=WATCHING)
def watching(request: pytest.FixtureRequest) -> str:
    """Each model whose reactor watches readiness."""
    return available(request.param)


@pytest.fixture(params=noria.MODELS)
def any_model(request: pytest.FixtureRequest) -> str:
    return available(request.param)


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail on logged errors: the reactor logs exceptions of handlers, such as broken invariants."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert not errors, [record.getMessage() for record in errors[:3]]


class Broken(SystemExit):
    """A broken invariant: a reactor propagates SystemExit and logs other exceptions."""


def check(condition: object, message: str) -> None:
    if not condition:
        raise Broken(message)


def run_reactor(model: str, begin: Callable[[Reactor], object]) -> None:
    """Run a reactor until it is stopped, and check that it leaves no descriptor open."""
    before = open_descriptors()

    def overdue() -> None:
        raise Broken(f"not stopped after {LIMIT} s")

    with Reactor(model, interval=0.0005) as reactor:
        limit = reactor.call_later(LIMIT, overdue)
        begin(reactor)
        try:
            reactor.run()
        except Broken as error:
            raise AssertionError(str(error)) from error
        limit.cancel()
    after = open_descriptors()
    assert after == before, f"descriptors left over: {after.items() - before.items()}"


class Registered:
    """A socket pair whose near end is registered, modified and unregistered at random."""

    def __init__(self, reactor: Reactor, rng: random.Random) -> None:
        self.reactor, self.rng = reactor, rng
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.events = 0  # for which it is registered
        self.sent, self.got = bytearray(), bytearray()
        self.returned, self.taken = bytearray(), bytearray()  # the other way

    def some_events(self) -> int:
        return self.rng.choice((READ, READ, WRITE, READ | WRITE))

    def make_handler(self) -> Callable[[Any, int], None]:
        def handler(fileobj: Any, mask: int) -> None:
            check(self.handler is handler, "a handler called that was replaced or unregistered")
            check(fileobj is self.near, "a handler called with another's file object")
            check(mask and not mask & ~self.events, f"mask {mask} for events {self.events}")
            self.ready(mask)

        self.handler: Callable[[Any, int], None] | None = handler
        return handler

    def register(self) -> None:
        if self.events:
            return self.modify()
        self.events = self.some_events()
        key = self.reactor.register(self.near, self.events, self.make_handler())
        check(key.fd == self.near.fileno(), f"{key} for descriptor {self.near.fileno()}")
        return None

    def modify(self) -> None:
        if self.events:
            self.events = self.some_events()
            self.reactor.modify(self.near, self.events, self.make_handler())

    def unregister(self) -> None:
        if self.events:
            self.events = 0
            self.handler = None
            self.reactor.unregister(self.near)

    def ready(self, mask: int) -> None:
        if mask & WRITE:
            with contextlib.suppress(BlockingIOError):
                data = some_bytes(self.rng, self.rng.choice((1, 3000)))
                self.returned += data[: self.near.send(data)]
            if self.rng.random() < 0.3:
                self.unregister()
                return
        if mask & READ:
            try:
                self.receive()
            except BlockingIOError:
                if self.reactor.model == "nonblocking":
                    raise  # its handlers learn by recv whether there is data
            check(self.sent.startswith(self.got), "bytes received differ from those sent")
        action = self.rng.choice((self.unregister, self.modify, self.feed, None, None, None))
        if action is not None:
            action()

    def receive(self) -> None:
        size = self.rng.choice((1, 100, 70_000))
        self.got += self.near.recv(size)
        while self.reactor.model == "epoll-edge":  # edge-triggered: read until EAGAIN
            self.got += self.near.recv(size)

    def feed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = some_bytes(self.rng, self.rng.choice((1, 100, 5000)))
            self.sent += data[: self.far.send(data)]
        with contextlib.suppress(BlockingIOError):
            self.taken += self.far.recv(10_000)
        check(self.returned.startswith(self.taken), "bytes taken differ from those returned")

    def close(self) -> None:
        self.unregister()
        self.near.close()
        self.far.close()


class Events:
    """Named events, calls and timers: each must run once, in order, unless cancelled."""

    def __init__(self, reactor: Reactor, rng: random.Random) -> None:
        self.reactor, self.rng = reactor, rng
        self.emitted = self.seen = 0
        self.called = self.expected_calls = 0
        self.fired: list[tuple[float, int]] = []
        self.timers: dict[int, Any] = {}
        self.set = 0
        reactor.on("counted", self.count)

    def count(self, number: int) -> None:
        check(number == self.seen, f"event {number} after {self.seen} events")
        self.seen += 1

    def emit(self) -> None:
        self.reactor.emit("counted", number=self.emitted)
        self.emitted += 1

    def call(self) -> None:
        handle = self.reactor.call_soon(self.call_made)
        if self.rng.random() < 0.3:
            handle.cancel()
        else:
            self.expected_calls += 1

    def call_made(self) -> None:
        self.called += 1

    def set_timer(self) -> None:
        self.set += 1
        when = self.reactor.time() + self.rng.choice((-1, 0, 0.0001, 0.002, 0.01))
        self.timers[self.set] = self.reactor.call_at(when, self.fire, self.set, when)

    def fire(self, number: int, when: float) -> None:
        check(number in self.timers, f"timer {number} fired twice or after its cancel")
        check(self.reactor.time() >= when, f"timer {number} fired early")
        del self.timers[number]

    def cancel_timer(self) -> None:
        if self.timers:
            self.timers.pop(self.rng.choice(list(self.timers))).cancel()

    def done(self) -> bool:
        return self.seen == self.emitted and self.called == self.expected_calls and not self.timers


def play_registrations(reactor: Reactor, rng: random.Random) -> None:
    """Act at random from calls and timers, then check that all bytes sent arrive."""
    crowd = [Registered(reactor, rng)]
    events = Events(reactor, rng)
    left = rng.randrange(30, 200)

    def some() -> Registered:
        return rng.choice(crowd)

    def replace() -> None:
        at = rng.randrange(len(crowd))
        crowd[at].close()
        crowd[at] = Registered(reactor, rng)  # likely reuses the previous descriptor number
        crowd[at].register()

    def grow() -> None:
        if len(crowd) < 6:
            crowd.append(Registered(reactor, rng))

    actions: list[Callable[[], object]] = [
        *[lambda: some().register(), lambda: some().feed()] * 5,
        *[lambda: some().modify(), lambda: some().unregister()],
        *[replace, grow],
        *[events.emit, events.call, events.set_timer, events.cancel_timer],
    ]

    def step() -> None:
        nonlocal left
        for _ in range(rng.randrange(4)):
            rng.choice(actions)()
        left -= 1
        if left:
            reactor.call_later(rng.choice((0, 0, 0.0003)), step)
        else:
            finish()

    def finish() -> None:
        waiting = [each for each in crowd if len(each.got) < len(each.sent)]
        for each in waiting:
            if not each.events & READ:
                each.register()
        if waiting or not events.done():
            reactor.call_later(0.0002, finish)
            return
        for each in crowd:
            each.close()
        reactor.stop()

    reactor.call_soon(step)


def test_registrations_events_and_timers(watching: str) -> None:
    def one(rng: random.Random) -> None:
        run_reactor(watching, lambda reactor: play_registrations(reactor, rng))

    fuzz(one, 8, 400)


class Echoing(asyncio.Protocol):
    """Echoes at random times and in pieces; checks the order of its callbacks."""

    transport: Any

    def __init__(self, reactor: Reactor, rng: random.Random, protocols: list[Echoing]) -> None:
        self.reactor, self.rng = reactor, random.Random(rng.random())
        self.kept = bytearray()
        self.calls: list[str] = []
        self.paused = self.writing_paused = False
        protocols.append(self)

    def connection_made(self, transport: Any) -> None:
        check(not self.calls, "connection_made called twice")
        self.calls.append("made")
        self.transport = transport
        if self.rng.random() < 0.3:
            transport.set_write_buffer_limits(high=self.rng.choice((0, 100, 10_000)))

    def data_received(self, data: bytes) -> None:
        check(self.calls == ["made"], f"data_received after {self.calls}")
        check(data and not self.paused, "data_received without data or while paused")
        self.kept += data
        if self.rng.random() < 0.7:
            self.echo()
        if self.rng.random() < 0.3:
            self.pause()

    def pause(self) -> None:
        self.paused = True
        self.transport.pause_reading()
        resume = self.reactor.call_later if self.rng.random() < 0.5 else None
        if resume is None:
            self.reactor.call_soon(self.resume)
        else:
            resume(self.rng.choice((0, 0.001)), self.resume)

    def resume(self) -> None:
        if self.calls[-1] != "lost":
            self.paused = False
            self.transport.resume_reading()
            self.echo()
            if self.rng.random() < 0.1:
                self.pause()

    def echo(self) -> None:
        size = self.rng.randrange(len(self.kept) + 1)
        if self.rng.random() < 0.5:
            size = len(self.kept)
        data = self.kept[:size]
        del self.kept[:size]
        how = self.rng.randrange(3)
        if how == 0:
            self.transport.write(data)
            data[:] = bytes(len(data))
        elif how == 1:
            self.transport.writelines([bytes(data[: size // 2]), bytes(data[size // 2 :])])
        else:
            self.transport.write(bytes(data))

    def eof_received(self) -> None:
        check(self.calls == ["made"], f"eof_received after {self.calls}")
        check(not self.paused, "eof_received while paused")
        self.calls.append("eof")
        self.transport.write(bytes(self.kept))

    def pause_writing(self) -> None:
        check(not self.writing_paused, "pause_writing called twice")
        self.writing_paused = True

    def resume_writing(self) -> None:
        check(self.writing_paused, "resume_writing without pause_writing")
        self.writing_paused = False

    def connection_lost(self, exc: BaseException | None) -> None:
        check(self.calls and self.calls[-1] != "lost", f"connection_lost after {self.calls}")
        check(exc is None or isinstance(exc, ConnectionError), f"connection_lost({exc!r})")
        self.calls.append("lost")


def converse(address: Any, rng: random.Random, failures: list[str]) -> None:
    """Run one client: all bytes it sends must come back, unless it resets the connection."""
    sock = socket.create_connection(address, LIMIT)
    sent, got = bytearray(), bytearray()
    with sock:
        for _ in range(rng.randrange(1, 15)):
            data = some_bytes(rng, rng.choice((1, 10, 1000, 40_000)))
            sock.sendall(data)
            sent += data
            if rng.random() < 0.5:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    got += sock.recv(rng.choice((1, 1000, 100_000)))
                sock.settimeout(LIMIT)
            if len(sent) - len(got) > 100_000:
                break  # more could exceed the buffers of both sides
        if rng.random() < 0.2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(65536):
            got += data
    if got != sent:
        failures.append(f"{len(got)} of {len(sent)} bytes echoed, or other bytes")


def play_streams(reactor: Reactor, rng: random.Random) -> Callable[[], None]:
    """Serve clients in threads; stop when all have disconnected."""
    protocols: list[Echoing] = []
    server = reactor.listen(lambda: Echoing(reactor, rng, protocols))
    address = ("127.0.0.1", server.port)
    failures: list[str] = []
    at_once = 1 if reactor.model == "blocking" else 3
    clients = [[random.Random(rng.random()) for _ in range(2)] for _ in range(at_once)]

    def run_clients(mine: list[random.Random]) -> None:
        try:
            for each in mine:
                converse(address, each, failures)
        except BaseException as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=run_clients, args=(mine,)) for mine in clients]

    def wait() -> None:
        alive = any(thread.is_alive() for thread in threads)
        if alive or any(protocol.calls[-1:] != ["lost"] for protocol in protocols):
            reactor.call_later(0.002, wait)
        else:
            reactor.stop()

    for thread in threads:
        thread.start()
    reactor.call_soon(wait)

    def finish() -> None:
        for thread in threads:
            thread.join()
        assert not failures, failures

    return finish


def test_streams_with_clients_in_threads(any_model: str) -> None:
    def one(rng: random.Random) -> None:
        finish: list[Callable[[], None]] = []
        try:
            run_reactor(any_model, lambda reactor: finish.append(play_streams(reactor, rng)))
        finally:
            for each in finish:
                each()

    fuzz(one, 4, 150)


class Speaking(asyncio.Protocol):
    """A client in the same reactor: sends at random times and checks the echo."""

    transport: Any
    lost = False

    def __init__(self, reactor: Reactor, rng: random.Random) -> None:
        self.reactor, self.rng = reactor, random.Random(rng.random())
        self.sent, self.got = bytearray(), bytearray()
        self.left = self.rng.randrange(1, 20)
        self.ended = self.aborted = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.speak()

    def speak(self) -> None:
        if self.lost:
            return
        if self.left == 0:
            self.ended = True
            self.transport.write_eof()
            return
        self.left -= 1
        data = some_bytes(self.rng, self.rng.choice((1, 10, 1000, 40_000)))
        self.sent += data
        self.transport.write(data)
        if self.rng.random() < 0.02:
            self.aborted = True
            self.transport.abort()
            return
        self.reactor.call_later(self.rng.choice((0, 0, 0.0005)), self.speak)

    def data_received(self, data: bytes) -> None:
        check(not self.lost and not self.aborted, "data_received after the end")
        self.got += data
        check(self.sent.startswith(self.got), "the echo differs from what was sent")

    def eof_received(self) -> None:
        check(self.ended, "the server ended first")
        check(self.got == self.sent, f"{len(self.got)} of {len(self.sent)} bytes echoed")

    def connection_lost(self, exc: BaseException | None) -> None:
        check(not self.lost, "connection_lost called twice")
        check(exc is None, f"connection_lost({exc!r})")
        self.lost = True


def play_connections(reactor: Reactor, rng: random.Random) -> None:
    """Connect repeatedly to a server of the same reactor; stop when all connections have ended."""
    protocols: list[Echoing] = []
    server = reactor.listen(lambda: Echoing(reactor, rng, protocols))
    address = ("127.0.0.1", server.port)
    speaking: list[Speaking] = []
    refused: list[OSError] = []
    wanted = rng.randrange(1, 10)

    def make() -> Speaking:
        speaking.append(Speaking(reactor, rng))
        return speaking[-1]

    def connected(transport: Any, error: OSError | None) -> None:
        check(error is None, f"connect: {error!r}")

    def connect() -> None:
        reactor.connect(make, address, connected)
        # No server listens on port 1.
        reactor.connect(make, ("127.0.0.1", 1), lambda transport, error: refused.append(error))

    def wait() -> None:
        if len(refused) < wanted and rng.random() < 0.5 and len(speaking) == len(refused):
            connect()
        alive = [each for each in (*speaking, *protocols) if not finished(each)]
        if alive or len(refused) < wanted or len(speaking) < wanted:
            reactor.call_later(0.0005, wait)
        else:
            check(all(isinstance(error, ConnectionRefusedError) for error in refused), "refused")
            reactor.stop()

    def finished(protocol: Any) -> bool:
        return protocol.lost if isinstance(protocol, Speaking) else protocol.calls[-1:] == ["lost"]

    reactor.call_soon(wait)


def test_connections_within_one_reactor(any_model: str) -> None:
    if any_model == "blocking":
        pytest.skip("serves one connection at a time, so it cannot be both ends")

    def one(rng: random.Random) -> None:
        run_reactor(any_model, lambda reactor: play_connections(reactor, rng))

    fuzz(one, 4, 150)


class Talking(asyncio.DatagramProtocol):
    """Answers each numbered datagram with several; records received ones."""

    transport: Any
    lost = False

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.got: list[bytes] = []
        self.answers: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        check(not self.lost, "datagram_received after connection_lost")
        self.got.append(data)
        for _ in range(self.rng.randrange(4)):
            answer = b"%d:%b" % (len(self.answers), data[: self.rng.randrange(1000)])
            self.answers.append(answer)
            self.transport.sendto(answer)

    def error_received(self, exc: BaseException) -> None:
        raise Broken(f"error_received({exc!r})")

    def connection_lost(self, exc: BaseException | None) -> None:
        check(exc is None and not self.lost, f"connection_lost({exc!r})")
        self.lost = True


def play_datagrams(reactor: Reactor, rng: random.Random) -> None:
    """Run a peer in the reactor's turns that sends, receives slowly, and compares."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.setblocking(False)
    talking = Talking(rng)
    reactor.datagram(lambda: talking, near)
    sent: list[bytes] = []
    answers: list[bytes] = []
    wanted = rng.randrange(5, 60)
    end = time.monotonic() + LIMIT

    def step() -> None:
        with contextlib.suppress(BlockingIOError):
            while len(sent) < wanted and rng.random() < 0.8:
                data = some_bytes(rng, rng.choice((0, 1, 100, 20_000)))
                far.send(data)
                sent.append(data)
        with contextlib.suppress(BlockingIOError):
            while rng.random() < 0.8:
                answers.append(far.recv(100_000))
        check(talking.got == sent[: len(talking.got)], "datagrams differ from those sent")
        check(answers == talking.answers[: len(answers)], "answers differ from those sent")
        check(time.monotonic() < end, f"{len(talking.got)} of {len(sent)} datagrams received")
        if len(talking.got) == wanted and len(answers) == len(talking.answers):
            rng.choice((talking.transport.close, talking.transport.abort))()
            reactor.call_later(0.001, finish)
        else:
            reactor.call_later(rng.choice((0, 0.0003)), step)

    def finish() -> None:
        if talking.lost:
            far.close()
            reactor.stop()
        else:
            reactor.call_later(0.001, finish)

    reactor.call_soon(step)


def test_datagrams(any_model: str) -> None:
    def one(rng: random.Random) -> None:
        run_reactor(any_model, lambda reactor: play_datagrams(reactor, rng))

    fuzz(one, 2 if any_model == "blocking" else 6, 200)
