"""Brokers that are killed, connections that are cut, workers that are killed: nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

import noria
from noria.bus.event import Event
from support import running
from support.brokers import PROGRAMS, BrokerServer
from support.loops import run_with_deadline, until
from support.tcp_proxy import TCPProxy

pytestmark = pytest.mark.usefixtures("quiet")
DEADLINE = 50.0  # seconds
CONCURRENCY = 10
KEYS = 4
TYPE = "failure.test"

KINDS = pytest.mark.parametrize("own_server", PROGRAMS, indirect=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    run_with_deadline(main, DEADLINE)


class HandledEvents:
    """What handlers have handled."""

    def __init__(self) -> None:
        self.count: Counter[tuple[str | None, int]] = Counter()
        self.by_key: dict[str, list[int]] = defaultdict(list)

    def add(self, key: str | None, number: int) -> None:
        self.count[key, number] += 1
        if key is not None:
            self.by_key[key].append(number)

    async def handler(self, event: Event) -> None:
        await asyncio.sleep(0.001)
        self.add(event.key, event.data["number"])

    def check(
        self, emitted: set[tuple[str | None, int]], most_duplicates: int, killed: int = 0
    ) -> None:
        """Check that all was handled, in order, after `killed` workers were killed."""
        assert set(self.count) == emitted
        assert sum(self.count.values()) - len(emitted) <= most_duplicates
        for key, numbers in self.by_key.items():
            # Repeats aside, in order. Only the heir of a killed worker may go back to events whose
            # acknowledgement was not sent.
            assert list(dict.fromkeys(numbers)) == sorted(set(numbers)), key
            assert sum(b < a for a, b in pairwise(numbers)) <= killed, key


async def emit_all(bus: noria.Bus, count: int, pause: float) -> set[tuple[str | None, int]]:
    """Emit events, every second one with a key; return what was confirmed: all of them."""
    emitted: set[tuple[str | None, int]] = set()
    confirmations = []
    for number in range(count):
        key = f"key-{number % KEYS}" if number % 2 else None
        emitted.add((key, number))
        confirmations.append(bus.emit(TYPE, key=key, number=number, timeout=DEADLINE))
        await asyncio.sleep(pause)
    await asyncio.gather(*confirmations)
    return emitted


@contextmanager
def handling(url: str, **options: Any) -> Iterator[tuple[noria.Bus, HandledEvents]]:
    handled = HandledEvents()
    bus = noria.Bus(url, concurrency=CONCURRENCY, **options)
    bus.on(TYPE, handled.handler, group="g")
    yield bus, handled


@KINDS
def test_nothing_is_lost_when_connections_are_cut(own_server: BrokerServer) -> None:
    cuts = 4

    async def main() -> None:
        async with TCPProxy(own_server.port) as proxy:
            url = f"{own_server.kind}://127.0.0.1:{proxy.port}"
            with handling(url, claim=2.0) as (bus, handled):
                async with bus:
                    emitting = asyncio.ensure_future(emit_all(bus, 400, 0.002))
                    for cut in range(1, cuts + 1):
                        await until(lambda cut=cut: len(handled.count) >= 60 * cut)
                        await proxy.cut()
                    emitted = await emitting
                    await until(lambda: len(handled.count) >= len(emitted))
                assert proxy.accepted > cuts
            handled.check(emitted, cuts * CONCURRENCY)

    run(main())


@KINDS
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_nothing_is_lost_when_the_broker_is_restarted(own_server: BrokerServer, how: str) -> None:
    restarts = 2

    async def main() -> None:
        with handling(own_server.url, claim=2.0) as (bus, handled):
            async with bus:
                emitting = asyncio.ensure_future(emit_all(bus, 300, 0.002))
                for restart in range(1, restarts + 1):
                    await until(lambda restart=restart: len(handled.count) >= 60 * restart)
                    await asyncio.to_thread(getattr(own_server, how))
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(own_server.start)
                emitted = await emitting
                await until(lambda: len(handled.count) >= len(emitted))
            handled.check(emitted, restarts * CONCURRENCY)

    run(main())


WORKER = """
    import asyncio, os, sys
    import noria

    bus = noria.Bus(sys.argv[1], concurrency=10, claim=1.0)

    @bus.on("failure.test", group="g")
    async def handler(event):
        os.write(1, f"{event.key or '-'} {event.data['number']}\\n".encode())
        if event.data["number"] >= 30 and event.key or event.data["number"] == 0:
            await asyncio.Event().wait()

    noria.run(bus.run())
"""


def _never_ends(line: str) -> bool:
    """Whether the worker printed this of an event whose handler does not end."""
    key, number = line.split()
    return number == "0" or (key != "-" and int(number) >= 30)


@KINDS
def test_what_a_killed_worker_had_is_taken_over_in_order(own_server: BrokerServer) -> None:
    async def main() -> None:
        process = running.start(WORKER, own_server.url)
        try:
            async with noria.Bus(own_server.url) as emitter:
                emitted = await emit_all(emitter, 60, 0.0)
                # The first of each key that does not end, and one without a key.
                lines: list[str] = []
                while sum(map(_never_ends, lines)) < KEYS // 2 + 1:
                    lines.append(await asyncio.to_thread(running.line, process))
            process.kill()
            out, _ = await asyncio.to_thread(process.communicate)
        finally:
            process.kill()
            process.communicate()
        with handling(own_server.url, claim=1.0) as (bus, handled):
            for each in [*lines, *out.splitlines()]:
                key, number = each.split()
                if not _never_ends(each):
                    handled.add(None if key == "-" else key, int(number))
            before = set(handled.count)
            async with bus:
                await until(lambda: len(handled.count) >= len(emitted))
        assert before < emitted
        handled.check(emitted, CONCURRENCY, killed=1)

    run(main())


@KINDS
def test_the_keys_are_shared_and_passed_on_in_order(own_server: BrokerServer) -> None:
    """Consumers come and go while events with keys are emitted."""

    async def main() -> None:
        handled = HandledEvents()
        running_keys: Counter[str] = Counter()
        owners: dict[str, set[int]] = defaultdict(set)

        def worker(number: int) -> noria.Bus:
            bus = noria.Bus(own_server.url, concurrency=CONCURRENCY, claim=5.0)

            @bus.on(TYPE, group="g")
            async def handler(event: Event) -> None:
                key = event.key
                assert key is not None
                running_keys[key] += 1
                assert running_keys[key] == 1, key
                await asyncio.sleep(0.001)
                handled.add(key, event.data["number"])
                owners[key].add(number)
                running_keys[key] -= 1

            return bus

        emitter = noria.Bus(own_server.url)
        confirmations: list[asyncio.Future[None]] = []
        expected: set[tuple[str, int]] = set()

        async def emit(count: int, *needed: int) -> None:
            """Emit so many events, and more until each of these workers has handled one."""
            end = len(expected) + count
            while len(expected) < end or not set(needed) <= set().union(*owners.values()):
                number = len(expected)
                key = f"key-{number % 12}"
                expected.add((key, number))
                confirmations.append(emitter.emit(TYPE, key=key, number=number, timeout=DEADLINE))
                await asyncio.sleep(0.001)

        workers = [worker(number) for number in range(3)]
        for each in workers:
            await each.start()
            await emit(100)
        await emit(50, 0)
        await workers[0].drain()
        await emit(100, 1)
        await workers[1].drain()
        await emit(150, 2)
        await asyncio.gather(*confirmations)
        await until(lambda: len(handled.count) >= len(expected))
        for bus in (workers[2], emitter):
            await bus.drain()
        handled.check(expected, 0)
        assert len(set.union(*owners.values())) == 3

    run(main())
