"""Redis: what other programs write into noria's keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import noria
from noria.bus.brokers import table
from noria.bus.contract import Subscription
from support.adapters import bodies, fetch
from support.brokers import BrokerServer
from support.loops import run_with_deadline, until, until_async

redis = pytest.importorskip("redis")

DEADLINE = 40.0  # seconds


@pytest.fixture(scope="session")
def server(shared_server: Callable[[str], BrokerServer]) -> BrokerServer:
    return shared_server("redis")


@pytest.fixture
def url(server: BrokerServer, type: str) -> str:
    """The URL of a bus that no other test uses."""
    return f"{server.url}?prefix={type}"


def event(number: int) -> str:
    return json.dumps({"specversion": "1.0", "id": str(number), "source": "/x", "type": "a.b"})


# Each is read as event 1, whatever stands beside it.
READABLE: list[dict[str, Any]] = [
    {"e": event(1), "ts": "notanumber"},
    {"ts": "1", "e": event(1)},
    {"e": event(1), "a": "x"},
    {"e": event(1), "a": "9" * 30},
    {"a": "-1", "e": event(1)},
]
OTHERS: list[dict[str, Any]] = [
    {"x": "1"},
    {"body": event(1), "a": "3"},
    {"\xff": b"\xfe", "y": ""},
]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("at_once", [1, 30], ids=["waiting", "many"])
@pytest.mark.parametrize("key", [None, "k"])
def test_entries_of_other_programs_are_read_or_buried(
    server: BrokerServer, url: str, type: str, at_once: int, key: str | None
) -> None:
    """With one entry a time XREADGROUP reads them, otherwise the script."""

    async def main() -> None:
        bus = noria.Bus(url)
        got: list[str] = []
        everything: list[str] = []

        @bus.on("a.b", group="g", retries=0)
        async def handler(event: noria.Event) -> None:
            got.append(event.id)
            assert event.attempt == 1

        @bus.on("a.b", retries=0)
        async def listen(event: noria.Event) -> None:
            everything.append(event.id)

        async with bus:
            with redis.Redis(port=server.port) as operator:
                stream = f"{type}:s:a.b"
                if key is not None:
                    await bus.emit("a.b", key=key, id="first")
                    await until(lambda: got == ["first"] == everything)
                    got.clear()
                    everything.clear()
                    [stream] = (s for s in operator.keys(f"{type}:s:a.b:*") if operator.xlen(s))
                for fields in [*READABLE, *OTHERS] * at_once:
                    operator.xadd(stream, fields)
                    if at_once == 1:
                        await asyncio.sleep(0.01)
                operator.xadd(stream, {"e": event(2)})
                await until(lambda: "2" in got and "2" in everything)
                expected = ["1"] * len(READABLE) * at_once + ["2"]
                await until(lambda: sorted(got) == expected == sorted(everything))
                letters = 2 * len(OTHERS) * at_once
                await until_async(lambda: _buried(bus, letters))
                assert operator.xpending(stream, "g")["pending"] == 0

    async def _buried(bus: noria.Bus, count: int) -> bool:
        return len(await bus.dead()) == count

    run_with_deadline(main(), DEADLINE)


def test_an_entry_of_another_program_can_be_returned(
    server: BrokerServer, url: str, type: str
) -> None:
    async def main() -> None:
        broker = table.make(url, "worker")
        consumer = await broker.subscribe(Subscription("a.b", "g"))
        with redis.Redis(port=server.port) as operator:
            for fields in ({"ts": "x", "e": "body"}, {"x": "y"}):
                operator.xadd(f"{type}:s:a.b", fields)
        found = await fetch(consumer, 2)
        await consumer.nak(found)
        again = await fetch(consumer, 2)
        assert bodies(again) == bodies(found) == [b"body", b'["x","y"]']
        assert [each.attempt for each in again] == [2, 2]
        await broker.close()

    run_with_deadline(main(), DEADLINE)


@pytest.mark.usefixtures("quiet")
def test_dead_letters_of_other_programs_are_skipped(
    server: BrokerServer, url: str, type: str
) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        await bus.connect()
        with redis.Redis(port=server.port) as operator:
            operator.xadd(f"{type}:dead", {"x": "y"})
        assert await bus.dead() == []
        await bus.close()

    run_with_deadline(main(), DEADLINE)
