"""Redis: commands that the server refuses, for want of memory or permission, or of a wrong key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.errors import BusError, EmitTimeout, EventRejected
from support import brokers
from support.brokers import BrokerServer, redis_client
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


@pytest.mark.usefixtures("quiet")
def test_workers_empty_a_server_without_memory_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{KEEPER}.TRIM_INTERVAL_MS", 100)
    monkeypatch.setattr(f"{KEEPER}.RETAINED_MS", 0)
    monkeypatch.setattr("noria.bus.dispatch.REFUSED_LETTER_DELAY", 0.2)
    numbers = range(300)
    rejected = {number for number in numbers if number % 11 == 0}

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

        @bus.on("a.b", group="g", backoff=0.01, concurrency=5)
        async def handler(event: noria.Event) -> None:
            number = event.data["n"]
            if number in rejected:
                raise EventRejected("always")
            if number % 7 == 0 and number not in failed:
                failed.add(number)
                raise ValueError("once")
            got.add(number)

        listened: list[int] = []
        async with bus:
            await until(lambda: got >= {-1, *numbers} - rejected)
            # There is memory again for the letters.
            while len(letters := await bus.dead()) < len(rejected):
                await asyncio.sleep(0.01)
            assert {letter.event.data["n"] for letter in letters} == rejected
            bus.on("a.b", lambda event: listened.append(event.data["n"]))
            await emitter.emit("a.b", n=-3, timeout=30)
            await until(lambda: -3 in got)
        await emitter.close()

    with brokers.running("redis", tmp_path) as server, redis_client(server) as operator:
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
            with redis_client(server) as operator:
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
            with redis_client(server) as operator:
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
        with redis_client(master) as operator, redis_client(replica) as other:
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


async def _drains_and_returns_events(url: str) -> None:
    """Handle events with and without keys, drain while `fetch` waits and a handler runs."""
    bus = noria.Bus(url)
    got: list[int] = []
    held = asyncio.Event()

    @bus.on("a.b", group="g", backoff=0.01)
    async def handler(event: noria.Event) -> None:
        if event.data["n"] == 1 and event.attempt == 1:
            raise ValueError("once")
        if event.data["n"] == 3:
            held.set()
            await asyncio.sleep(DEADLINE)
        got.append(event.data["n"])

    bus.on("a.b", lambda event: None)
    await bus.start()
    await bus.emit("a.b", n=1)
    await bus.emit("a.b", n=2, key="k", delay=0.1)
    await until(lambda: sorted(got) == [1, 2])
    await bus.emit("a.b", n=3)
    await held.wait()
    await bus.drain(0.1)
    heir = noria.Bus(url)
    again: list[int] = []
    heir.on("a.b", lambda event: again.append(event.data["n"]), group="g")
    async with heir:
        await until(lambda: again == [3])
        assert [row.waiting for row in await heir.lag()] == [0]


# The second is the one in docs/bus.md.
@pytest.mark.parametrize(
    "rules",
    [
        "+@all -@dangerous",
        "+@read +@write +@scripting +@connection +time -@dangerous +client|id +client|unblock",
    ],
)
def test_a_user_with_few_permissions(
    server: BrokerServer, type: str, rules: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noria.bus")
    with redis_client(server) as operator:
        user = type.replace(".", "-")
        operator.execute_command(
            "ACL", "SETUSER", user, "on", ">pw", "~" + type + ":*", *rules.split()
        )
        url = f"redis://{user}:pw@127.0.0.1:{server.port}?prefix={type}"
        run_with_deadline(_drains_and_returns_events(url), DEADLINE)
        operator.execute_command("ACL", "DELUSER", user)
    texts = [record.getMessage() for record in caplog.records]
    assert all(
        "failed at attempt 1 of 4: ValueError: once" in text or "polling" in text for text in texts
    )
    # One for each bus.
    assert sum("polling" in text for text in texts) <= 2, texts
    assert any("polling" in text for text in texts) == ("unblock" not in rules), texts


def test_a_changed_password_is_reported_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noria.bus")

    async def main(server: BrokerServer, operator: Any) -> None:
        bus = noria.Bus(f"redis://:old@127.0.0.1:{server.port}")
        got: list[int] = []
        bus.on("a.b", lambda event: got.append(event.data["n"]), group="g")
        async with bus:
            await bus.emit("a.b", n=1)
            await until(lambda: got == [1])
            operator.config_set("requirepass", "new")
            operator.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(EmitTimeout, match="refused the login"):
                await bus.emit("a.b", n=2, timeout=2)
            operator.config_set("requirepass", "old")
            await bus.emit("a.b", n=3)
            await until(lambda: 3 in got)

    with (
        brokers.running("redis", tmp_path, "--requirepass", "old") as server,
        redis_client(server, password="old") as operator,
    ):
        run_with_deadline(main(server, operator), DEADLINE)
    assert all(record.exc_info is None for record in caplog.records)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("refused the login" in text for text in texts) == 1, texts
    assert len(texts) <= 3, texts
