"""What only the NATS adapter has: options, leases, what stays in the server, dead connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from noria.bus.brokers import table
from noria.bus.contract import Subscription, partition
from noria.errors import BrokerUnavailable, InvalidBrokerURL
from support import brokers
from support.adapters import bodies, fetch, handle_each, ids, message, publish
from support.brokers import BrokerServer
from support.loops import run_with_deadline, until, until_async
from support.tcp_proxy import TCPProxy

pytest.importorskip("nats")

from noria.bus.brokers.nats import source as source_module
from noria.bus.brokers.nats.ack_floor import AckFloor, nanoseconds
from noria.bus.brokers.nats.broker import NATSBroker
from noria.bus.brokers.nats.connection import APIError
from noria.bus.brokers.nats.consumer import GroupConsumer
from noria.bus.brokers.nats.leases import Leases
from noria.bus.brokers.nats.names import NO_KEY
from noria.bus.brokers.nats.source import parse_reply

DEADLINE = 40.0  # seconds


@pytest.fixture(scope="session")
def server(shared_server: Callable[[str], BrokerServer]) -> BrokerServer:
    return shared_server("nats")


@pytest.fixture
def url(server: BrokerServer, type: str) -> str:
    """The URL of streams that no other test uses."""
    return f"{server.url}?prefix={type.replace('.', '-')}"


def run(main: Coroutine[Any, Any, None]) -> None:
    run_with_deadline(main, DEADLINE)


def make(url: str) -> NATSBroker:
    broker = table.make(url, f"worker-{next(ids)}")
    assert isinstance(broker, NATSBroker)
    return broker


def test_the_number_of_partitions_is_agreed(url: str, type: str) -> None:
    async def main() -> None:
        first = make(f"{url}&partitions=4")
        await first.connect()
        silent = make(url)
        await silent.connect()
        assert silent.partitions == 4
        other = make(f"{url}&partitions=5")
        with pytest.raises(
            InvalidBrokerURL, match=r"partitions=5, but the streams .* partitions=4"
        ):
            await other.connect()
        # Nothing of it is left open.
        assert other.connection.link is None
        for broker in (first, silent):
            await broker.close()

    run(main())


def test_options_that_contradict_the_streams_are_refused(url: str) -> None:
    async def main() -> None:
        first = make(f"{url}&keep=1h")
        await first.connect()
        with pytest.raises(InvalidBrokerURL, match=r"keep=2h, but .* keep=3600"):
            await make(f"{url}&keep=2h").connect()
        with pytest.raises(InvalidBrokerURL, match=r"replicas=3, but"):
            await make(f"{url}&replicas=3").connect()
        with pytest.raises(InvalidBrokerURL, match="prefix="):
            make(url.replace("prefix=", "prefix=a.b"))
        await first.close()

    run(main())


def test_a_wrong_login_is_an_error_of_the_url(tmp_path: Path) -> None:
    with brokers.running("nats", tmp_path, "--auth", "secret") as server:

        async def main() -> None:
            broker = make(server.url)
            with pytest.raises(InvalidBrokerURL, match="refuses the login"):
                await broker.connect()
            await broker.close()
            broker = make(server.url.replace("//", "//secret@"))
            await broker.connect()
            await broker.close()

        run(main())


def test_a_server_without_jetstream_is_unavailable(tmp_path: Path) -> None:
    with brokers.running("nats", tmp_path) as server:
        server.stop()
        options = server.command
        server.command = lambda: [each for each in options() if each != "-js"]  # type: ignore[method-assign]
        server.start()

        async def main() -> None:
            broker = make(server.url)
            with pytest.raises(BrokerUnavailable, match=r"JetStream .*nats-server -js"):
                await broker.connect()
            await broker.close()

        run(main())


def test_a_lost_and_returned_connection_is_logged_once(
    own_nats: BrokerServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noria.bus")

    async def main() -> None:
        broker = make(own_nats.url)
        consumer = await broker.subscribe(Subscription("log.test", "g"))
        waiting = asyncio.ensure_future(consumer.fetch(1))
        await asyncio.sleep(0)
        await asyncio.to_thread(own_nats.stop)
        with pytest.raises(BrokerUnavailable):
            await waiting
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match="start one with: nats-server -js"):
                await publish(broker, "log.test", b"1")
        await asyncio.to_thread(own_nats.start)
        await publish_until_stored(broker, "log.test", b"2")
        assert (await fetch(consumer, 1))[0].body == b"2"
        await broker.close()

    run(main())
    messages = [r.getMessage() for r in caplog.records if r.name == "noria.bus"]
    assert sum("lost the connection" in each for each in messages) == 1
    assert sum("again" in each for each in messages) == 1


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[BrokerServer]:
    with brokers.running("nats", tmp_path) as server:
        yield server


def test_a_connection_that_does_not_answer_is_replaced(
    server: BrokerServer, url: str, type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network drops everything, and no side is told."""
    monkeypatch.setattr("noria.bus.brokers.nats.connection.PROBE_SECONDS", 0.2)

    async def main() -> None:
        async with TCPProxy(server.port) as proxy:
            broker = make(url.replace(str(server.port), str(proxy.port)))
            await broker.connect()
            first = broker.connection.link
            assert first is not None
            proxy.stalled = True
            with pytest.raises(BrokerUnavailable, match=r"no answer within 0\.2 s"):
                await first.round_trip(0.2)
            await until(lambda: first.lost)
            proxy.stalled = False
            await proxy.cut()
            await publish(broker, type, b"1")
            assert broker.connection.link is not first
            await broker.close()

    run(main())


def test_the_group_is_made_again_if_it_was_removed(url: str, type: str) -> None:
    async def main() -> None:
        broker = make(url)
        consumer = await broker.subscribe(Subscription(type, "g"))
        waiting = asyncio.ensure_future(consumer.fetch(1))
        await asyncio.sleep(0.05)
        link = await broker.connection.get()
        name = broker.names.consumer(type, "g", "_")
        await link.call(f"CONSUMER.DELETE.{broker.names.events}.{name}")
        with pytest.raises(BrokerUnavailable, match="Consumer Deleted"):
            await waiting
        await publish(broker, type, b"1")
        assert bodies(await fetch(consumer, 1)) == [b"1"]
        await consumer.close()
        await broker.close()

    run(main())


def test_a_pull_that_expires_is_repeated(
    url: str, type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        broker = make(url)
        consumers = [await broker.subscribe(Subscription(type, group)) for group in ("g", None)]
        pulled = 0
        pull = source_module.Source.pull

        async def counted(self: source_module.Source, count: int, *, wait: bool = True) -> None:
            nonlocal pulled
            pulled += 1
            self.expires = 0.05
            await pull(self, count, wait=wait)

        monkeypatch.setattr(source_module.Source, "pull", counted)
        waiting = [asyncio.ensure_future(fetch(consumer, 1)) for consumer in consumers]
        await until(lambda: pulled >= 6)
        await publish(broker, type, b"1")
        for each in waiting:
            assert bodies(await each) == [b"1"]
        for consumer in consumers:
            await consumer.close()
        await broker.close()

    run(main())


def test_nothing_of_a_consumer_without_a_group_remains(url: str, type: str) -> None:
    async def main() -> None:
        broker = make(url)
        consumer = await broker.subscribe(Subscription(type))
        link = await broker.connection.get()

        async def count() -> int:
            return int((await link.call(f"CONSUMER.LIST.{broker.names.events}"))["total"])

        assert await count() == 1
        assert await broker.lag() == []
        await consumer.close()
        assert await count() == 0
        await broker.close()

    run(main())


def test_the_lag_of_types_without_groups_keys_and_delays(url: str) -> None:
    async def main() -> None:
        broker = make(url)
        await broker.connect()
        await publish(broker, "a.one", b"1", b"2")
        await publish(broker, "a.two", b"1", key="k")
        await publish(broker, "a.two", b"2", delay=60.0)
        assert await rows(broker) == [("a.one", None, 2, 0, 0), ("a.two", None, 1, 0, 1)]
        consumer = await broker.subscribe(Subscription("a.two", "g"))
        # Whether or not the partition has its consumer yet.
        assert await has(broker, ("a.two", "g", 1, 0, 1))
        found = await fetch(consumer, 1)
        await until_async(lambda: has(broker, ("a.two", "g", 0, 1, 1)))
        await consumer.ack(found)
        await until_async(lambda: has(broker, ("a.two", "g", 0, 0, 1)))
        await consumer.close()
        await broker.close()

    async def rows(broker: NATSBroker) -> list[tuple[Any, ...]]:
        return [
            (row.type, row.group, row.waiting, row.in_flight, row.delayed)
            for row in await broker.lag()
        ]

    async def has(broker: NATSBroker, wanted: tuple[Any, ...]) -> bool:
        return (await rows(broker))[1] == wanted

    run(main())


def test_leases_are_shared_and_taken_over(url: str) -> None:
    async def main() -> None:
        broker = make(url)
        link = await broker._link()
        subject = broker.names.lease("a.b", "g")

        def member(name: str, seconds: float = 60.0) -> Leases:
            return Leases(broker.names.state, subject, name, seconds, 4)

        loop = asyncio.get_running_loop()
        one, two, dead = member("one"), member("two"), member("dead", 0.05)
        await dead.renew(link)
        assert dead.owned == {0, 1, 2, 3}
        await one.renew(link)
        assert not one.owned
        while not one.owned:
            # It does not renew: after its seconds, others take what it has.
            await one.renew(link)
        assert one.owned == {0, 1, 2, 3}
        assert one.valid(loop.time())
        assert not dead.valid(loop.time())
        await dead.renew(link)
        assert not dead.owned
        await one.renew(link)
        assert one.surplus == 2
        await one.renew(link, frozenset({1, 3}))
        await two.renew(link)
        assert (one.owned, two.owned) == ({0, 2}, {1, 3})
        await one.leave(link)
        await two.renew(link)
        while two.owned != {0, 1, 2, 3}:
            await two.renew(link)
        await broker.close()

    run(main())


# By this worker's clock the leases have ended, or may end before the dispatcher starts an event.
@pytest.mark.parametrize("left", [-1.0, 0.7])
def test_events_with_keys_wait_for_leases_that_are_renewed_late(url: str, left: float) -> None:
    async def main() -> None:
        broker = make(url)
        consumer = await broker.subscribe(Subscription("a.b", "g", concurrency=8))
        assert isinstance(consumer, GroupConsumer)
        await publish(broker, "a.b", b"1", b"2", b"3", b"4", key="key")
        found = await fetch(consumer, 4)
        await publish(broker, "a.b", b"5", b"6", key="key")
        fetching = asyncio.ensure_future(consumer.fetch(8))
        # In the broker they are still its own.
        leases = consumer.keys.leases
        ending = consumer.loop.time() + left * consumer.claim
        leases.deadline, deadline = ending, leases.deadline
        await until(lambda: len(consumer.ready_keys) == 2)
        await asyncio.sleep(0.05)
        assert not fetching.done()
        leases.deadline = deadline
        consumer.wake()
        found += await fetching
        if len(found) < 6:
            found += await fetch(consumer, 1)
        assert bodies(found) == [b"1", b"2", b"3", b"4", b"5", b"6"]
        await consumer.ack(found)
        await consumer.close()
        await broker.close()

    run(main())


def test_pulls_that_end_without_notice_do_not_delay_a_takeover(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Server 2.9 drops a pull without notice if it expires while events are given out."""
    pull = source_module.Source.pull
    dropped: list[str] = []

    async def drop(self: source_module.Source, count: int, *, wait: bool = True) -> None:
        if "+_+" in self._subject or len(dropped) == 3:
            await pull(self, count, wait=wait)
            return
        dropped.append(self._subject)
        self.credit += count
        self.pull_ends = self.link.loop.time() + self.expires + source_module.PULL_GRACE_SECONDS

    async def main() -> None:
        subscription = Subscription("a.b", "g", concurrency=8, claim=1.0)
        dead = make(url)
        consumer = await dead.subscribe(subscription)
        await publish(dead, "a.b", b"1", b"2", b"3", b"4", b"5", b"6", key="key")
        await fetch(consumer, 3)
        await dead.close()
        monkeypatch.setattr(source_module.Source, "pull", drop)
        broker = make(url)
        consumer = await broker.subscribe(subscription)
        found = await fetch(consumer, 6)
        assert bodies(found) == [b"1", b"2", b"3", b"4", b"5", b"6"]
        assert len(dropped) == 3
        assert not [each for each in caplog.messages if "did not return" in each]
        await consumer.ack(found)
        await consumer.close()
        await broker.close()

    run(main())


def test_a_takeover_gets_what_is_queued_behind_repeats(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last claim ends later; by then, the server has queued the others before it again."""
    monkeypatch.setattr("noria.bus.brokers.nats.keys.MIN_RECOVERY_SECONDS", 8.0)
    count = 60

    async def main() -> None:
        subscription = Subscription("a.b", "g", concurrency=80, claim=1.0)
        dead = make(url)
        consumer = await dead.subscribe(subscription)
        await publish(dead, "a.b", *(b"%d" % number for number in range(count)), key="key")
        claimed = await fetch(consumer, count)
        await dead.close()
        broker = make(url)
        link = await broker._link()
        consumer = await broker.subscribe(subscription)

        async def extend_nothing(*arguments: Any) -> None:
            pass

        monkeypatch.setattr(consumer, "_extend", extend_nothing)
        fetching = asyncio.ensure_future(fetch(consumer, count))
        assert isinstance(consumer, GroupConsumer)
        # Until the claims of the others have ended once more.
        looks = 0
        while looks < 40:
            looks += sum(1 for _ in consumer.keys.held()) == count - 1
            await link.send([(claimed[-1].token.reply, b"+WPI", "")])
            await asyncio.sleep(0.05)
        found = await fetching
        assert bodies(found) == [b"%d" % number for number in range(count)]
        assert not [each for each in caplog.messages if "did not return" in each]
        await consumer.ack(found)
        await consumer.close()
        await broker.close()

    run(main())


def test_a_lease_that_changed_meanwhile_is_read_again(url: str) -> None:
    async def main() -> None:
        broker = make(url)
        link = await broker._link()
        subject = broker.names.lease("a.b", "g")
        members = [Leases(broker.names.state, subject, f"m{n}", 60.0, 8) for n in range(4)]
        for _ in range(3):
            await asyncio.gather(
                *(m.renew(link, frozenset(sorted(m.owned)[: m.surplus])) for m in members)
            )
        owned = [number for m in members for number in m.owned]
        assert sorted(owned) == list(range(8))
        await broker.close()

    run(main())


@pytest.mark.parametrize("same", [True, False], ids=["same worker", "new worker"])
def test_what_the_server_forgets_is_not_handled_again(
    own_nats: BrokerServer, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """Server 2.9, if it is killed while it writes a consumer's state, leaves an empty file."""
    monkeypatch.setattr("noria.bus.brokers.nats.consumer.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("noria.bus.brokers.nats.ack_floor.STORE_SECONDS", 0.0)
    # No worker remembers single acknowledgements.
    monkeypatch.setattr("noria.bus.brokers.nats.consumer.MAX_KNOWN_ACKS", 0)
    type = "forget.test"

    async def main() -> None:
        broker = make(own_nats.url)
        consumer = await broker.subscribe(Subscription(type, "g"))
        await publish(broker, type, *(b"%d" % number for number in range(50)))
        await publish(broker, type, *(b"%d" % number for number in range(50)), key="k")
        await handle_each(consumer, 100)
        number = partition("k", broker.partitions)
        wanted = {NO_KEY: 50, str(number): 100}
        for each, last in wanted.items():
            name = broker.names.consumer(type, "g", each)
            await until_async(lambda name=name, last=last: stored_floor(broker, name, last))
        if not same:
            await consumer.close()
            await broker.close()
        own_nats.kill()
        states = list(own_nats.directory.glob("jetstream/*/streams/noria/obs/g+*/o.dat"))
        assert len(states) == 2
        for state in states:
            state.write_bytes(b"")
        own_nats.start()
        if not same:
            broker = make(own_nats.url)
            consumer = await broker.subscribe(Subscription(type, "g"))
        again: list[bytes] = []

        async def take() -> None:
            while True:
                try:
                    found = await consumer.fetch(10)
                except BrokerUnavailable:
                    continue
                again.extend(delivery.body for delivery in found)
                await consumer.ack(found)

        taking = asyncio.ensure_future(take())
        await publish_until_stored(broker, type, b"last")
        await until(lambda: b"last" in again)
        await until_async(lambda: settled(broker, type))
        assert again == [b"last"]
        taking.cancel()
        await asyncio.wait([taking])
        await consumer.close()
        await broker.close()

    run(main())


async def publish_until_stored(broker: NATSBroker, type: str, body: bytes) -> None:
    """Publish a message, with one id, until the broker has it."""
    id = next(ids)
    while True:
        try:
            await publish(broker, type, body, id=id)
            return
        except BrokerUnavailable:
            await asyncio.sleep(0.01)


async def settled(broker: NATSBroker, type: str) -> bool:
    rows = [row for row in await broker.lag() if row.type == type]
    return not any(row.waiting or row.in_flight for row in rows)


async def stored_floor(broker: NATSBroker, consumer: str, last: int) -> bool:
    floor = AckFloor(broker.names.state, broker.names.ack_floor(consumer))
    await floor.load(await broker.connection.get())
    return floor.sequence >= last


def test_times_of_jetstream_are_read() -> None:
    assert nanoseconds("2026-11-29T12:20:48.33712713Z") == 1795954848337127130
    assert nanoseconds("2026-11-29T12:20:48Z") == 1795954848000000000
    assert nanoseconds("0001-01-01") == 0


def test_replies_are_parsed_with_and_without_a_domain() -> None:
    short = "$JS.ACK.noria.g+_+a.2.77.5.1700000000000000000.3"
    assert parse_reply(short) == (2, "77", 5, "1700000000000000000")
    long = "$JS.ACK._.HASH.noria.g+_+a.2.77.5.1700000000000000000.3.random"
    assert parse_reply(long) == (2, "77", 5, "1700000000000000000")
    # Without the token at the end.
    assert parse_reply(long.removesuffix(".random")) == (2, "77", 5, "1700000000000000000")


def test_what_jetstream_refuses_is_an_error_of_one_event(url: str, type: str) -> None:
    async def main() -> None:
        broker = make(url)
        await broker.connect()
        link = await broker.connection.get()
        info = await link.call(f"STREAM.INFO.{broker.names.events}")
        await link.call(
            f"STREAM.UPDATE.{broker.names.events}", {**info["config"], "max_msg_size": 1000}
        )
        messages = [message(type, body) for body in (b"1", b"x" * 2000, b"3")]
        refused = await broker.publish(messages)
        assert list(refused) == [1]
        assert "the broker refused the event" in str(refused[1])
        with pytest.raises(APIError):
            await link.call(f"CONSUMER.INFO.{broker.names.events}.no-such-consumer")
        await broker.close()

    run(main())
