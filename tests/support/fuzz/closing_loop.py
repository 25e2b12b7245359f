"""Threads that use a loop or a reactor while it runs, stops and closes. Runs as a process:

    python -X faulthandler tests/support/fuzz/closing_loop.py KIND MODEL SEED ROUNDS

KIND: `loop` runs in the main thread; `moved` is created there, runs in a second thread and is
closed in a third; `reactor` is a noria.Reactor.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import noria
from support.fuzz.harness import LIMIT, open_descriptors
from support.loops import ORACLE


class Caller(threading.Thread):
    """Calls into the loop from its own thread until the round is over.

    Every accepted call runs once, in order; after the close every call raises RuntimeError.
    """

    def __init__(self, calls: Calls, rng: random.Random) -> None:
        super().__init__()
        self.calls, self.rng = calls, random.Random(rng.random())
        self.accepted = 0
        self.ran = 0
        self.failures: list[str] = []

    def run(self) -> None:
        try:
            while not self.calls.over.is_set():
                self.call()
                if self.rng.random() < 0.2 or self.accepted - self.ran > 50:
                    time.sleep(self.rng.choice((0, 0.0001)))
            self.call()
        except BaseException as error:
            self.failures.append(repr(error))

    def call(self) -> None:
        closing, closed = self.calls.closing.is_set(), self.calls.closed.is_set()
        how = self.rng.choice(self.calls.ways)
        number = self.accepted
        try:
            how(self.note, number)
        except RuntimeError as error:
            if not closing and not self.calls.closing.is_set():
                self.failures.append(f"refused before the close: {error!r}")
            return
        if closed:
            self.failures.append("accepted after the close")
        self.accepted = number + 1

    def note(self, number: int) -> None:
        if number != self.ran:
            self.failures.append(f"call {number} ran after {self.ran} calls")
        self.ran += 1


class Calls:
    """The state of one round, shared by its threads."""

    def __init__(self, rng: random.Random) -> None:
        self.closing, self.closed, self.over = (threading.Event() for _ in range(3))
        self.ways: list[Callable[[Callable[[int], None], int], object]] = []
        self.coroutines: list[Any] = []
        self.rng = rng
        self.failures: list[str] = []

    def start(self) -> None:
        self.callers = [Caller(self, self.rng) for _ in range(self.rng.randrange(1, 5))]
        for caller in self.callers:
            caller.start()

    def mark(self, call_soon: Callable[..., object]) -> None:
        """Queue a call that runs after all calls accepted so far."""
        counts = [caller.accepted for caller in self.callers]
        call_soon(self.check, counts)

    def check(self, counts: list[int]) -> None:
        ran = [caller.ran for caller in self.callers]
        if any(done < count for done, count in zip(ran, counts, strict=True)):
            self.failures.append(f"accepted {counts}, but only {ran} have run")

    def finish(self) -> None:
        time.sleep(self.rng.choice((0, 0.002)))
        self.over.set()
        for caller in self.callers:
            caller.join()
            self.failures += caller.failures
        for coroutine in self.coroutines:
            coroutine.close()  # calls discarded with the loop
        assert not self.failures, self.failures[:3]


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"x" * 1000)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def new_loop(model: str) -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)


def ways_into_loop(calls: Calls, loop: asyncio.AbstractEventLoop) -> None:
    """Return the ways to call into an asyncio loop from a thread."""

    def call_soon(note: Callable[[int], None], number: int) -> None:
        loop.call_soon_threadsafe(note, number)

    def run_coroutine(note: Callable[[int], None], number: int) -> None:
        async def work() -> None:
            await asyncio.sleep(0)

        coroutine = work()
        calls.coroutines.append(coroutine)
        asyncio.run_coroutine_threadsafe(coroutine, loop)
        loop.call_soon_threadsafe(note, number)

    def stop(note: Callable[[int], None], number: int) -> None:
        loop.call_soon_threadsafe(loop.stop)
        loop.call_soon_threadsafe(note, number)

    calls.ways += [call_soon] * 8 + [run_coroutine] * 2 + [stop]


async def traffic(rng: random.Random) -> list[asyncio.Transport]:
    """Start connections that echo to each other while the loop runs."""
    loop = asyncio.get_running_loop()
    transports = []
    for _ in range(rng.randrange(3)):
        for sock in socket.socketpair():
            transport, _ = await loop.create_connection(Echo, sock=sock)
            transports.append(transport)
    return transports


def run_for_a_while(loop: asyncio.AbstractEventLoop, calls: Calls) -> None:
    """Run the loop a few times; the threads may stop it early."""
    for _ in range(calls.rng.randrange(1, 5)):
        loop.call_later(calls.rng.choice((0.0005, 0.003)), loop.stop)
        for _ in range(3):
            loop.call_soon(calls.mark, loop.call_soon)
        loop.run_forever()


def end_traffic(loop: asyncio.AbstractEventLoop, transports: list[asyncio.Transport]) -> None:
    for transport in transports:
        transport.abort()

    async def turns() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    task = loop.create_task(turns())
    while not task.done():  # the threads may stop the loop
        loop.call_soon(loop.stop)
        loop.run_forever()


def close_loop(loop: asyncio.AbstractEventLoop, calls: Calls) -> None:
    calls.closing.set()
    loop.close()
    calls.closed.set()


def play_loop(model: str, rng: random.Random) -> None:
    calls = Calls(rng)
    loop = new_loop(model)
    ways_into_loop(calls, loop)
    transports = loop.run_until_complete(traffic(rng))
    calls.start()
    try:
        run_for_a_while(loop, calls)
        end_traffic(loop, transports)
        close_loop(loop, calls)
    finally:
        calls.finish()


def in_thread(function: Callable[..., object], *args: Any) -> None:
    """Run a function in another thread, wait for it, and raise its exception."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function(*args)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def play_moved(model: str, rng: random.Random) -> None:
    """Run play_loop's steps, each in its own thread."""
    calls = Calls(rng)
    loop = new_loop(model)
    ways_into_loop(calls, loop)
    transports: list[asyncio.Transport] = []
    in_thread(lambda: transports.extend(loop.run_until_complete(traffic(rng))))
    calls.start()
    try:
        in_thread(run_for_a_while, loop, calls)
        if rng.random() < 0.5:
            in_thread(run_for_a_while, loop, calls)
        in_thread(end_traffic, loop, transports)
        in_thread(close_loop, loop, calls)
    finally:
        calls.finish()


def play_reactor(model: str, rng: random.Random) -> None:
    calls = Calls(rng)
    reactor = noria.Reactor(model, interval=0.0005)

    def call_soon(note: Callable[[int], None], number: int) -> None:
        reactor.call_soon_threadsafe(note, number)

    def emit(note: Callable[[int], None], number: int) -> None:
        reactor.emit("called", note=note, number=number)

    def stop(note: Callable[[int], None], number: int) -> None:
        reactor.stop()
        reactor.call_soon_threadsafe(note, number)

    calls.ways += [call_soon, emit] * 5 + [stop]
    reactor.on("called", lambda note, number: note(number))
    server = reactor.listen(Echo)
    calls.start()
    clients: list[socket.socket] = []
    try:
        clients += (
            socket.create_connection(("127.0.0.1", server.port), LIMIT)
            for _ in range(rng.randrange(2 if model == "blocking" else 4))
        )
        for _ in range(rng.randrange(1, 5)):
            reactor.call_later(rng.choice((0.0005, 0.003)), reactor.stop)
            for _ in range(3):
                reactor.call_soon(calls.mark, reactor.call_soon)
            reactor.run()
        calls.closing.set()
        reactor.close()
        calls.closed.set()
    finally:
        calls.finish()
        for client in clients:
            client.close()


def main(kind: str, model: str, seed: int, rounds: int) -> None:
    play = {"loop": play_loop, "moved": play_moved, "reactor": play_reactor}[kind]
    sys.setswitchinterval(1e-5)
    play(model, random.Random(seed))  # warm-up: create objects that are created once
    gc.collect()
    before = open_descriptors()
    for number in range(seed, seed + rounds):
        print(f"seed {number}", flush=True)
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        play(model, random.Random(number))
        gc.collect()
        after = open_descriptors()
        assert after == before, f"descriptors left over: {after.items() - before.items()}"
    faulthandler.cancel_dump_traceback_later()
    assert threading.active_count() == 1, threading.enumerate()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
