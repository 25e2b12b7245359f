"""Descriptors that are closed without the loop's knowledge, reused and duplicated."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable

from support.fuzz.endpoints import Endpoint, end_gracefully
from support.fuzz.harness import Violations, fuzz, run_checked, some_bytes
from support.fuzz.pairs import KINDS, connected, make_pair
from support.fuzz.watched_sockets import Bystander, Watched
from support.loops import ORACLE


class Crowd:
    """Watched sockets, unwatched ones and duplicates, opened and closed at random."""

    def __init__(self, rng: random.Random, violations: Violations, model: str) -> None:
        self.model = model
        self.rng, self.violations = rng, violations
        self.watched: list[Watched] = []
        self.unannounced: list[Watched] = []
        self.bystanders: list[Bystander] = []
        self.duplicates: list[socket.socket] = []
        self.transports: list[tuple[asyncio.Transport, socket.socket]] = []
        self.lost: list[asyncio.Future[None]] = []
        self.actions: list[Callable[[], None]] = [
            *[self.open] * 2,
            *[self.watch_reader, self.watch_writer] * 3,
            *[self.unwatch_reader, self.unwatch_writer],
            *[self.feed] * 6,
            self.close,
            self.close_unannounced,
            *[self.forget] * 2,
            *[self.add_bystander, self.check_bystanders],
            self.duplicate,
            self.close_duplicate,
            self.watch_wrong,
            self.end_transport,
        ]

    def some(self) -> Watched:
        if not self.watched:
            self.open()
        return self.rng.choice(self.watched)

    def open(self) -> None:
        if len(self.watched) < 8:
            self.watched.append(Watched(self.rng, self.violations))

    def watch_reader(self) -> None:
        self.some().watch_reader()

    def watch_writer(self) -> None:
        self.some().watch_writer()

    def unwatch_reader(self) -> None:
        self.some().unwatch_reader()

    def unwatch_writer(self) -> None:
        self.some().unwatch_writer()

    def feed(self) -> None:
        self.some().feed()

    def close(self) -> None:
        watched = self.some()
        self.watched.remove(watched)
        watched.close()

    def close_unannounced(self) -> None:
        """Close a watched socket; an unwatched file takes its number at once."""
        watched = self.some()
        if self.model == ORACLE and watched.reader and watched.writer:
            return  # asyncio's selector raises FileNotFoundError at the first removal
        self.watched.remove(watched)
        watched.close_unannounced()
        self.add_bystander(watched.number)
        self.unannounced.append(watched)

    def forget(self) -> None:
        if self.unannounced:
            self.unannounced.pop(0).forget()

    def add_bystander(self, number: int = 0) -> None:
        self.bystanders.append(Bystander(number))

    def check_bystanders(self) -> None:
        for bystander in self.bystanders:
            wrong = bystander.untouched()
            self.violations.check(not wrong, f"a file of another: {wrong}")

    def duplicate(self) -> None:
        """Duplicate a socket: its epoll registration outlives its number (epoll(7))."""
        self.duplicates.append(self.some().near.dup())

    def close_duplicate(self) -> None:
        if self.duplicates:
            self.duplicates.pop(self.rng.randrange(len(self.duplicates))).close()

    def watch_wrong(self) -> None:
        """Check that a closed socket cannot be watched, by object or by number."""
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            number = sock.fileno()
        try:
            loop.add_reader(sock, self.violations.add, "a closed socket's reader was called")
        except ValueError:
            pass
        else:
            self.violations.add("add_reader accepted a closed socket")
        try:
            loop.add_writer(number, self.violations.add, "a closed number's writer was called")
        except OSError:
            pass
        else:
            loop.remove_writer(number)

    async def add_transport(self) -> None:
        """Create a transport and close its socket; an unwatched file takes the number."""
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        lost = loop.create_future()

        class Ended(asyncio.Protocol):
            def data_received(protocol, data: bytes) -> None:
                self.violations.check(data in b"before", f"a transport received {data!r}")

            def connection_lost(protocol, exc: BaseException | None) -> None:
                lost.set_result(None)

        with near:
            number = near.fileno()
            far.send(b"before")
            transport, _ = await loop.create_connection(Ended, sock=near)
            for _ in range(self.rng.randrange(3)):
                await asyncio.sleep(0)
        self.add_bystander(number)
        self.transports.append((transport, far))
        self.lost.append(lost)

    def end_transport(self) -> None:
        if self.transports:
            transport, far = self.transports.pop(0)
            if self.rng.random() < 0.5:
                transport.write(some_bytes(self.rng, 100))
            self.rng.choice((transport.close, transport.abort))()
            far.close()

    async def play(self) -> None:
        for _ in range(self.rng.randrange(30, 150)):
            if self.rng.random() < 0.05:
                await self.add_transport()
            self.rng.choice(self.actions)()
            if self.rng.random() < 0.4:
                await asyncio.sleep(self.rng.choice((0, 0, 0.0005)))

    async def end(self) -> None:
        """Check that open sockets still receive all bytes, then close them."""
        while self.unannounced:
            self.forget()
        for watched in self.watched:
            watched.watch_reader()
            while watched.incoming.received < len(watched.incoming.sent):
                if watched.reader is None:
                    watched.watch_reader()
                await asyncio.sleep(0.0002)
            watched.close()
        while self.transports:
            self.end_transport()
        for lost in self.lost:
            await lost
        self.check_bystanders()

    def close_all(self) -> None:
        for watched in (*self.watched, *self.unannounced):
            watched.near.close()
            watched.far.close()
        for _, far in self.transports:
            far.close()
        for duplicate in self.duplicates:
            duplicate.close()
        for bystander in self.bystanders:
            bystander.close()


async def play_pair(first: Endpoint, second: Endpoint, kind: str) -> None:
    try:
        async with connected(first, second, kind, False):
            await asyncio.gather(first.play(), second.play())
            await end_gracefully(first, second)
    finally:
        await first.side.close()
        await second.side.close()


def test_only_what_is_registered_is_watched_closed_and_read(model: str) -> None:
    def one(rng: random.Random) -> None:
        async def main() -> None:
            violations = Violations()
            crowd = Crowd(rng, violations, model)
            pair = make_pair("pair", rng, violations, model)

            async def work() -> None:
                beside = asyncio.ensure_future(play_pair(*pair, rng.choice(KINDS)))
                try:
                    await crowd.play()
                    await crowd.end()
                    await beside
                finally:
                    beside.cancel()
                    await asyncio.wait({beside})

            try:
                await violations.guard(work(), lambda: (vars(crowd), pair))
            finally:
                crowd.close_all()

        run_checked(main, model)

    fuzz(one, 10, 400)
