"""NATS: streams and consumers that are deleted, or lost with the server's store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from typing import Any

import pytest

import noria
from noria.bus.brokers import table
from noria.bus.brokers.nats import consumer
from support.brokers import BrokerServer
from support.loops import until

pytest.importorskip("nats")
pytestmark = pytest.mark.parametrize("own_server", ["nats"], indirect=True)

DEADLINE = 50.0  # seconds
STREAMS = ("noria", "noria-delayed", "noria-dead", "noria-state")
KEYS = (None, "a", "b")


class Handlers:
    """A bus with handlers with a group and without, and what they get."""

    def __init__(self, url: str) -> None:
        self.bus = noria.Bus(url, emit_timeout=DEADLINE)
        self.found: dict[str, list[int]] = {"oldest": [], "newest": [], "all": []}
        self.emitted: list[int] = []
        self.add("oldest", "lost.test", group="oldest")
        self.add("newest", "lost.test", group="newest", start="newest")
        self.add("all", "*")

    def add(self, name: str, type: str, **options: Any) -> None:
        async def handle(event: noria.Event) -> None:
            self.found[name].append(event.data["number"])

        self.bus.on(type, handler=handle, **options)

    async def emit(self, bus: noria.Bus | None = None, **options: Any) -> None:
        """Emit an event with each key, and wait until each handler has got it."""
        for key in KEYS:
            self.emitted.append(len(self.emitted))
            await (bus or self.bus).emit("lost.test", key=key, number=self.emitted[-1], **options)
        await until(lambda: all(set(self.emitted) <= set(each) for each in self.found.values()))


async def delete(url: str, *subjects: str) -> None:
    broker: Any = table.make(url, "operator")
    await broker.connect()
    link = await broker.connection.get()
    # The server may report an error for a file of a consumer that it writes at the same time.
    await link.api(*((subject, None) for subject in subjects))
    await broker.close()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "noria.bus"]


def test_deleted_streams_are_created_again(
    own_server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(prefix: str) -> None:
        handlers = Handlers(f"{own_server.url}?prefix={prefix}")
        async with asyncio.timeout(DEADLINE / 2), handlers.bus:
            await handlers.emit()
            for _ in range(2):
                subjects = [f"STREAM.DELETE.{name.replace('noria', prefix)}" for name in STREAMS]
                await delete(own_server.url, *subjects)
                await handlers.emit()
                await handlers.emit(delay=0.01)
            assert await handlers.bus.dead() == []

    with caplog.at_level(logging.WARNING, "noria.bus"):
        for prefix in ("first", "second", "third"):
            # Server 2.9 may not tell the consumers of a stream that was deleted and created again
            # of new events: its information says that it has some, and theirs that there are none.
            with contextlib.suppress(TimeoutError):
                noria.run(main(prefix))
                break
        else:
            pytest.fail("events of streams that were created again were not handled")
    expected = "streams did not exist any more; they are created again"
    assert any(expected in message for message in messages(caplog))


def test_a_server_with_an_empty_store(
    own_server: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        handlers = Handlers(own_server.url)
        publisher = noria.Bus(own_server.url, emit_timeout=DEADLINE)
        async with asyncio.timeout(DEADLINE), handlers.bus:
            await handlers.emit(publisher)
            for _ in range(2):
                await asyncio.to_thread(own_server.kill)
                shutil.rmtree(own_server.directory / "jetstream")
                await asyncio.to_thread(own_server.start)
                # The new stream soon has as many events as the former one had.
                await handlers.emit(publisher)
            await publisher.close()

    with caplog.at_level(logging.WARNING, "noria.bus"):
        noria.run(main())
    assert not [message for message in messages(caplog) if "stream not found" in message]


@pytest.mark.usefixtures("quiet")
def test_deleted_consumers_are_created_again(own_server: BrokerServer) -> None:
    async def main() -> None:
        handlers = Handlers(own_server.url)
        async with asyncio.timeout(DEADLINE):
            # Only the group that begins with the oldest event gets this one.
            await handlers.bus.emit("lost.test", number=-1)
            async with handlers.bus:
                await handlers.emit()
                broker: Any = handlers.bus.broker
                link = await broker.connection.get()
                names = (await link.call("CONSUMER.NAMES.noria"))["consumers"]
                await delete(own_server.url, *(f"CONSUMER.DELETE.noria.{name}" for name in names))
                await handlers.emit()
            assert -1 in handlers.found["oldest"]
            assert -1 not in handlers.found["newest"]

    noria.run(main())


class Worker:
    """A bus that handles one event at a time; each waits for `go`."""

    def __init__(self, url: str) -> None:
        self.bus = noria.Bus(url, concurrency=1, claim=20, emit_timeout=DEADLINE)
        self.begun: list[int] = []
        self.go = asyncio.Event()
        self.bus.on("lost.test", handler=self.handle, group="group")

    async def handle(self, event: noria.Event) -> None:
        self.begun.append(event.data["number"])
        await self.go.wait()


async def in_flight(bus: noria.Bus) -> int:
    return sum(row.in_flight for row in await bus.lag())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("key", [None, "a"])
@pytest.mark.parametrize("loss", ["deleted streams", "empty store"])
def test_a_claim_of_a_lost_stream_does_not_end_that_of_another_worker(
    own_server: BrokerServer, monkeypatch: pytest.MonkeyPatch, loss: str, key: str | None
) -> None:
    monkeypatch.setattr(consumer, "LOOK_SECONDS", 0.1)
    # The workers have the same partition, one after the other.
    url = f"{own_server.url}?partitions=1"

    async def main() -> None:
        first, second = Worker(url), Worker(url)
        async with asyncio.timeout(DEADLINE):
            await first.bus.start()
            await first.bus.emit("lost.test", key=key, number=1)
            await until(lambda: first.begun == [1])
            if loss == "deleted streams":
                await delete(url, *(f"STREAM.DELETE.{name}" for name in STREAMS))
            else:
                await asyncio.to_thread(own_server.kill)
                shutil.rmtree(own_server.directory / "jetstream")
                await asyncio.to_thread(own_server.start)
            await second.bus.start()
            await second.bus.emit("lost.test", key=key, number=2)
            await until(lambda: second.begun == [2])
            # The first worker looks at its consumer several times.
            await asyncio.sleep(1.0)
            first.go.set()
            await first.bus.drain()
            assert await in_flight(second.bus) == 1
            second.go.set()
            await second.bus.drain()
            assert (first.begun, second.begun) == ([1], [2])

    noria.run(main())
