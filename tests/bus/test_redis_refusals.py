"""Redis: commands that the server refuses, for want of memory, permission or another type of key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.errors import BusError, EmitTimeout
from support import brokers
from support.brokers import BrokerServer
from support.loops import run_with_deadline, until

redis = pytest.importorskip("redis")

DEADLINE = 40.0  # seconds
KEEPER = "noria.bus.brokers.redis.keeper"


@pytest.fixture(scope="session")
def server(shared_server: Callable[[str], BrokerServer]) -> BrokerServer:
    return shared_server("redis")


@pytest.fixture
def url(server: BrokerServer, type: str) -> str:
    """The URL of a bus that no other test uses."""
    return f"{server.url}?prefix={type}"


@contextmanager
def client(server: BrokerServer, **options: Any) -> Iterator[Any]:
    """A client of redis-py, as an operator would use."""
    with redis.Redis(port=server.port, decode_responses=True, **options) as found:
        yield found


@pytest.mark.usefixtures("quiet")
def test_workers_empty_a_server_without_memory_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{KEEPER}.TRIM_INTERVAL_MS", 100)
    monkeypatch.setattr(f"{KEEPER}.RETAINED_MS", 0)
    numbers = range(300)

    async def main(server: BrokerServer, operator: Any) -> None:
        emitter = noria.Bus(server.url)
        for number in numbers:
            key = f"k{number}" if number % 3 else None
            delay = 0.1 if number % 3 == 1 else 0.0
            emitter.emit("a.b", n=number, x="x" * 10_000, key=key, delay=delay)
        await emitter.emit("a.b", n=-1)
        used = operator.info("memory")["used_memory"]
        operator.config_set("maxmemory", used - 500_000)
        with pytest.raises(EmitTimeout, match="it has no memory left; raise maxmemory"):
            await emitter.emit("a.b", n=-2, timeout=0.5)

        bus = noria.Bus(server.url)
        got: set[int] = set()
        failed: set[int] = set()

        @bus.on("a.b", group="g", backoff=0.01)
        async def handler(event: noria.Event) -> None:
            number = event.data["n"]
            if number % 7 == 0 and number not in failed:
                failed.add(number)
                raise ValueError("once")
            got.add(number)

        listened: list[int] = []
        async with bus:
            await until(lambda: got >= {-1, *numbers})
            bus.on("a.b", lambda event: listened.append(event.data["n"]))
            await emitter.emit("a.b", n=-3, timeout=30)
            await until(lambda: -3 in got)
        await emitter.close()

    with brokers.running("redis", tmp_path) as server, client(server) as operator:
        run_with_deadline(main(server, operator), DEADLINE)


@pytest.mark.usefixtures("quiet")
def test_an_event_that_cannot_be_stored_fails_alone(
    server: BrokerServer, url: str, type: str
) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        got: list[int] = []
        bus.on("fine", lambda event: got.append(event.data["n"]), group="g")
        async with bus:
            with client(server) as operator:
                operator.set(f"{type}:s:bad", "a string")
                emitted = [
                    bus.emit("bad" if number % 100 == 1 else "fine", n=number)
                    for number in range(600)
                ]
                emitted.append(bus.emit("bad", n=601, id="once"))
                outcomes = await asyncio.gather(*emitted, return_exceptions=True)
                for number, outcome in enumerate(outcomes):
                    if number % 100 == 1 or number == 600:
                        assert isinstance(outcome, BusError), number
                        assert "WRONGTYPE" in str(outcome)
                    else:
                        assert outcome is None, number
                await until(lambda: len(got) == 594)
                # What was refused does not count as stored.
                operator.delete(f"{type}:s:bad")
                await bus.emit("bad", n=601, id="once")
                assert operator.xlen(f"{type}:s:bad") == 1

    run_with_deadline(main(), DEADLINE)


@pytest.mark.usefixtures("quiet")
def test_a_delayed_event_that_cannot_be_stored_does_not_stop_the_others(
    server: BrokerServer, url: str, type: str
) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        got: list[int] = []
        bus.on("fine", lambda event: got.append(event.data["n"]), group="g")
        async with bus:
            with client(server) as operator:
                operator.set(f"{type}:s:bad", "a string")
                await bus.emit("bad", n=1, delay=0.05)
                await bus.emit("fine", n=2, delay=0.1)
                await until(lambda: got == [2])
                assert operator.zcard(f"{type}:delayed") == 1

    run_with_deadline(main(), DEADLINE)


@pytest.mark.usefixtures("quiet")
def test_what_waits_for_a_replica_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noria.bus.brokers.redis.broker.REPLICA_SECONDS", 0.2)
    options = ("--repl-diskless-sync-delay", "0")

    async def main(master: BrokerServer, replica: BrokerServer) -> None:
        bus = noria.Bus(f"{master.url}?replicas=1")
        with client(master) as operator, client(replica) as other:
            timed_out = bus.emit("a.b", n=1, timeout=1)
            confirmed = bus.emit("a.b", n=2, timeout=DEADLINE)
            keyed = bus.emit("a.b", n=3, key="k", timeout=DEADLINE)
            with pytest.raises(EmitTimeout, match="has stored the events, but 0 of 1 replicas"):
                await timed_out
            added = bus.emit("a.b", n=4, timeout=DEADLINE)
            other.replicaof("127.0.0.1", master.port)
            await asyncio.gather(confirmed, keyed, added)
            streams = operator.keys("noria:s:a.b*")
            assert sum(operator.xlen(stream) for stream in streams) == 4
            assert other.keys("noria:s:a.b*")
        await bus.close()

    with (
        brokers.running("redis", tmp_path / "1", *options) as master,
        brokers.running("redis", tmp_path / "2", *options) as replica,
    ):
        run_with_deadline(main(master, replica), DEADLINE)
