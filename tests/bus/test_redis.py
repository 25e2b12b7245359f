"""What only the Redis adapter has: failover, loading, options, what stays in the server."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.bus.brokers import table
from noria.bus.contract import Consumer, Delivery, Subscription
from noria.errors import BrokerUnavailable, EmitTimeout, InvalidBrokerURL
from support import brokers, running
from support.adapters import bodies, publish
from support.brokers import BrokerServer, redis_client
from support.certificates import write_certificate
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


@pytest.fixture
def trims_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove events 0.1 s after they were acknowledged."""
    monkeypatch.setattr(f"{KEEPER}.TRIM_INTERVAL_MS", 100)
    monkeypatch.setattr(f"{KEEPER}.RETAINED_MS", 0)


def run(main: Coroutine[Any, Any, None]) -> None:
    run_with_deadline(main, DEADLINE)


async def fetch(consumer: Consumer, count: int) -> list[Delivery]:
    """Fetch until there are `count` deliveries, or more."""
    found: list[Delivery] = []
    while len(found) < count:
        found += await consumer.fetch(10)
    return found


def test_a_server_that_loads_its_data_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "noria.bus")
    # 400 us for each command that is loaded; every 1024 commands, the server answers its clients.
    with brokers.running("redis", tmp_path, "--key-load-delay", "400") as server:
        with redis_client(server) as operator, operator.pipeline(transaction=False) as pipeline:
            for number in range(4200):
                pipeline.set(f"ballast-{number}", "")
            pipeline.execute()

        async def main() -> None:
            bus = noria.Bus(server.url)
            got: list[int] = []
            bus.on("a.b", lambda event: got.append(event.data["n"]), group="g")
            problems: set[str] = set()
            async with bus:
                await bus.emit("a.b", n=1)
                await asyncio.to_thread(server.stop)
                starting = asyncio.ensure_future(asyncio.to_thread(server.start))
                while not starting.done():
                    try:
                        await bus.lag()
                    except BrokerUnavailable as error:
                        problems.add(str(error))
                    await asyncio.sleep(0.02)
                await starting
                await bus.emit("a.b", n=2, timeout=30)
                await until(lambda: set(got) == {1, 2})
            assert any("loading" in problem for problem in problems), problems

        run(main())
    texts = [record.getMessage() for record in caplog.records]
    assert sum("trying to connect again" in text for text in texts) == 1, texts
    assert sum(text.startswith("connected to ") for text in texts) == 1, texts


@pytest.mark.usefixtures("quiet")
def test_after_a_failover_the_new_master_is_used(tmp_path: Path) -> None:
    options = ("--repl-diskless-sync-delay", "0")
    with (
        brokers.running("redis", tmp_path / "1", *options) as first,
        brokers.running("redis", tmp_path / "2", *options) as second,
    ):
        with redis_client(second) as operator:
            operator.replicaof("127.0.0.1", first.port)
        # The replica is named first, and is not chosen.
        url = f"redis://127.0.0.1:{second.port},127.0.0.1:{first.port}?replicas=1"

        async def main() -> None:
            bus = noria.Bus(url, claim=2.0)
            got: set[int] = set()
            emitted: set[int] = set()

            @bus.on("a.b", group="g")
            async def handler(event: noria.Event) -> None:
                got.add(event.data["n"])

            async def emit(number: int, key: str | None) -> None:
                await bus.emit("a.b", n=number, key=key, timeout=30)
                emitted.add(number)

            async with bus:
                for number in range(40):
                    await emit(number, "k" if number % 2 else None)
                await asyncio.to_thread(first.kill)
                with redis_client(second) as operator:
                    operator.replicaof("NO", "ONE")
                    # Nothing replicates the new master: nothing can be confirmed.
                    with pytest.raises(EmitTimeout, match="0 of 1 replicas have the events"):
                        await bus.emit("a.b", n=40, timeout=3)
                    await asyncio.to_thread(first.start)
                    with redis_client(first) as other:
                        other.replicaof("127.0.0.1", second.port)
                    for number in range(41, 60):
                        await emit(number, "k" if number % 2 else None)
                await until(lambda: got >= emitted)

        run(main())


def test_a_master_that_became_a_replica_is_reported_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with brokers.running("redis", tmp_path) as server, redis_client(server) as operator:

        async def main() -> None:
            bus = noria.Bus(server.url)
            got: list[int] = []
            bus.on("a.b", lambda event: got.append(event.data["n"]), group="g")
            async with bus:
                await bus.emit("a.b", n=1)
                await until(lambda: got == [1])
                operator.replicaof("127.0.0.1", brokers.free_port())
                emitting = bus.emit("a.b", n=2, timeout=30)
                await until(lambda: "READONLY" in caplog.text)
                assert not emitting.done()
                operator.replicaof("NO", "ONE")
                await emitting
                await until(lambda: got == [1, 2])

        run(main())


def test_programs_agree_on_the_number_of_partitions(url: str) -> None:
    async def main() -> None:
        first = table.make(f"{url}&partitions=4", "one")
        await first.connect()
        await first.close()
        # Without the option, the number of the others is taken.
        second = table.make(url, "two")
        await second.connect()
        assert second.partitions == 4  # type: ignore[attr-defined]
        await second.close()
        third = table.make(f"{url}&partitions=8", "three")
        with pytest.raises(InvalidBrokerURL, match="have 4; leave the option out"):
            await third.connect()
        await third.close()

    run(main())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("redis://127.0.0.1/main", "the path is the number of the database"),
        ("redis://127.0.0.1?ca=x", "unknown option 'ca'"),
        ("redis://127.0.0.1?prefix=", "prefix='' must be a word"),
        ("redis://127.0.0.1?partitions=0", "partitions=0 must be a number from 1"),
        ("redis://127.0.0.1?keep=soon", "keep=soon is no time"),
    ],
)
def test_wrong_options_are_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidBrokerURL, match=problem):
        table.make(text, "worker")


def test_a_login_and_a_database(tmp_path: Path) -> None:
    with brokers.running("redis", tmp_path, "--requirepass", "secret") as server:
        host = f"127.0.0.1:{server.port}"

        async def main() -> None:
            for login in ("", ":wrong@", "someone:secret@"):
                broker = table.make(f"redis://{login}{host}", "worker")
                with pytest.raises(InvalidBrokerURL, match="refused the login") as raised:
                    await broker.connect()
                assert "secret" not in str(raised.value)
                await broker.close()
            broker = table.make(f"redis://:secret@{host}/1", "worker")
            await publish(broker, "a.b", b"x")
            await broker.close()
            other = table.make(f"redis://:secret@{host}/2", "worker")
            assert await other.lag() == []
            await other.close()
            broker = table.make(f"redis://:secret@{host}/99", "worker")
            with pytest.raises(InvalidBrokerURL, match="out of range"):
                await broker.connect()
            await broker.close()

        run(main())


def test_a_unix_socket(tmp_path: Path) -> None:
    with brokers.running("redis", tmp_path, "--unixsocket", f"{tmp_path}/s") as server:
        assert server.process is not None

        async def main() -> None:
            for url in (f"redis+unix:{tmp_path}/s", f"redis+unix://{tmp_path}/s"):
                broker = table.make(url, "worker")
                await publish(broker, "a.b", b"x")
                await broker.close()

        run(main())


def test_a_group_that_was_removed_is_created_again(
    server: BrokerServer, url: str, type: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        got: list[int] = []
        bus.on("a.b", lambda event: got.append(event.data["n"]), group="g")
        async with bus:
            await bus.emit("a.b", n=1)
            await until(lambda: got == [1])
            with redis_client(server) as operator:
                operator.delete(*operator.keys(f"{type}:*"))
            await bus.emit("a.b", n=2)
            await until(lambda: 2 in got)
            await bus.emit("a.b", n=3, key="k")
            await until(lambda: 3 in got)

    run(main())


def test_after_the_loss_of_all_data_events_with_keys_are_handled_and_types_known(
    server: BrokerServer, url: str, type: str
) -> None:
    async def main() -> None:
        emitter, bus = noria.Bus(url), noria.Bus(url)
        got: list[int] = []
        bus.on("a.b", lambda event: got.append(event.data["n"]), group="g")
        async with bus:
            await emitter.emit("a.b", n=1, key="k")
            await emitter.emit("other", n=1)
            await until(lambda: got == [1])
            with redis_client(server) as operator:
                operator.delete(*operator.keys(f"{type}:*"))
            await emitter.emit("a.b", n=2, key="k")
            await until(lambda: 2 in got)
            # Types are registered again after 10 seconds.
            emitter.broker._registered_until = 0.0  # type: ignore[attr-defined]
            await emitter.emit("other", n=3)
            assert [row.type for row in await emitter.lag()] == ["a.b", "other"]
        await emitter.close()

    run(main())


@pytest.mark.usefixtures("trims_soon")
def test_what_every_group_has_acknowledged_is_removed(
    server: BrokerServer, url: str, type: str
) -> None:
    async def main() -> None:
        broker = table.make(url, "worker")
        groups = [await broker.subscribe(Subscription("a.b", name)) for name in ("one", "two")]
        with redis_client(server) as operator:

            def stored() -> int:
                keys = operator.keys(f"{type}:s:*")
                return sum(operator.xlen(key) for key in keys)

            for number in range(6):
                key = f"key-{number}" if number % 2 else None
                await publish(broker, "a.b", b"%d" % number, key=key)
            found = [await fetch(consumer, 6) for consumer in groups]
            await groups[0].ack(found[0])
            await asyncio.sleep(0.5)
            assert stored() == 6
            kept = [delivery for delivery in found[1] if delivery.body == b"2"]
            await groups[1].ack([delivery for delivery in found[1] if delivery not in kept])
            # Event 2, and 4 after it in the same stream.
            await until(lambda: stored() == 2)
            await groups[1].ack(kept)
            await until(lambda: stored() == 0)
            rows = [(row.group, row.waiting, row.in_flight) for row in await broker.lag()]
            assert rows == [("one", 0, 0), ("two", 0, 0)]
        await broker.close()

    run(main())


@pytest.mark.usefixtures("trims_soon")
def test_nothing_is_removed_that_a_consumer_without_a_group_has_not_read(
    server: BrokerServer, url: str, type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{KEEPER}.READ_INTERVAL_SECONDS", 0.1)

    async def main() -> None:
        broker = table.make(url, "worker")
        member = await broker.subscribe(Subscription("a.b", "g"))
        readers = [await broker.subscribe(Subscription(each)) for each in ("a.b", "*")]
        sent = [b"%d" % number for number in range(5)]
        for body in sent:
            await publish(broker, "a.b", body)
        await member.ack(await fetch(member, 5))
        await asyncio.sleep(0.5)
        for reader in readers:
            assert bodies(await fetch(reader, 5)) == sent
        with redis_client(server) as operator:
            await until(lambda: operator.xlen(f"{type}:s:a.b") == 0)
            for reader in readers:
                await reader.close()
            assert operator.keys(f"{type}:reader*") == []
        await broker.close()

    run(main())


def test_events_that_are_too_old_are_removed(server: BrokerServer, url: str, type: str) -> None:
    async def main() -> None:
        broker = table.make(f"{url}&keep=500ms", "worker")
        # The server removes whole nodes of a stream, of 4 KiB at least.
        await publish(broker, "a.b", *[b"x" * 1000] * 200)
        await asyncio.sleep(0.6)
        await publish(broker, "a.b", b"new")
        with redis_client(server) as operator:
            assert operator.xlen(f"{type}:s:a.b") < 20
        await broker.close()

    run(main())


def test_what_a_reply_lost_on_its_way_is_given_out_before_later_events(
    server: BrokerServer, url: str, type: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        broker = table.make(url, "worker")
        consumer = await broker.subscribe(Subscription("a.b", "g", claim=60.0))
        for number in range(4):
            await publish(broker, "a.b", b"%d" % number, key="k")
        found = await consumer.fetch(1)
        with redis_client(server) as operator:
            # The server gives out the second event, but the consumer does not learn of it.
            [stream] = [key for key in operator.keys(f"{type}:s:a.b:*") if operator.xlen(key)]
            name = operator.xinfo_consumers(stream, "g")[0]["name"]
            operator.xreadgroup("g", name, {stream: ">"}, count=1)
            waiting = asyncio.ensure_future(consumer.fetch(10))
            operator.client_kill_filter(_type="normal", skipme=True)
            with suppress(BrokerUnavailable):
                found += await waiting
            while len(found) < 4:
                try:
                    found += await consumer.fetch(10)
                except BrokerUnavailable:
                    await asyncio.sleep(0.01)
        # Without the loss of the connection, the third may have been read before.
        assert sorted(bodies(found)) == [b"0", b"1", b"2", b"3"]
        await consumer.close()
        await broker.close()

    run(main())


def test_a_delayed_event_is_moved_by_another_process(url: str) -> None:
    async def main() -> None:
        publisher, worker = (table.make(url, name) for name in ("publisher", "worker"))
        await publish(publisher, "a.b", b"later", delay=0.2, key="k")
        await publish(publisher, "a.b", b"much later", delay=3600.0)
        [row] = await publisher.lag()
        assert (row.group, row.waiting, row.delayed) == (None, 0, 2)
        await publisher.close()
        consumer = await worker.subscribe(Subscription("a.b", "g"))
        [delivery] = await consumer.fetch(10)
        assert delivery.body == b"later"
        [row] = await worker.lag()
        assert (row.waiting, row.in_flight, row.delayed) == (0, 1, 1)
        await consumer.nak([delivery], 3600.0)
        await worker.close()

    run(main())


def test_a_retry_counts_as_in_flight(url: str) -> None:
    async def main() -> None:
        broker = table.make(url, "worker")
        consumer = await broker.subscribe(Subscription("a.b", "g"))
        await publish(broker, "a.b", b"1", b"2")
        found = await consumer.fetch(1)
        await consumer.nak(found, 3600.0)
        [row] = await broker.lag()
        assert (row.waiting, row.in_flight, row.delayed) == (1, 1, 0)
        await consumer.close()
        await broker.close()

    run(main())


def test_what_waits_is_counted_where_the_server_does_not_know_it(
    server: BrokerServer, url: str, type: str
) -> None:
    async def main() -> None:
        broker = table.make(url, "worker")
        await publish(broker, "a.b", *[b"x"] * 5)
        with redis_client(server) as operator:
            stream = f"{type}:s:a.b"
            consumer = await broker.subscribe(Subscription("a.b", "g"))
            # From then on XINFO GROUPS does not say how many entries wait.
            operator.xdel(stream, operator.xrange(stream)[2][0])
            assert operator.xinfo_groups(stream)[0].get("lag") is None
        [row] = await broker.lag()
        assert (row.waiting, row.in_flight) == (4, 0)
        await consumer.close()
        await broker.close()

    run(main())


STOPPED = """
    import asyncio, os, signal, sys
    from noria.bus.brokers import table
    from noria.bus.contract import Subscription

    async def main():
        broker = table.make(sys.argv[1], "stopped")
        consumer = await broker.subscribe(Subscription("a.b", "g", claim=1.0))
        found = [*await consumer.fetch(1), *await consumer.fetch(1)]
        fetching = asyncio.ensure_future(consumer.fetch(10))
        await asyncio.sleep(0.1)
        print("waits", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        lost = await consumer.extend(found)
        await asyncio.wait([fetching], timeout=1)
        print("lost", len(lost), "fetched", fetching.done(), flush=True)

    asyncio.run(main())
"""


def test_a_process_that_was_stopped_finds_its_claims_and_leases_lost(url: str) -> None:
    async def main() -> None:
        broker = table.make(url, "worker")
        await publish(broker, "a.b", b"1")
        await publish(broker, "a.b", b"2", key="k")
        process = running.start(STOPPED, url)
        try:
            assert await asyncio.to_thread(running.line, process) == "waits"
            heir = await broker.subscribe(Subscription("a.b", "g", claim=1.0))
            # One that the stopped process's waiting command may be given.
            await publish(broker, "a.b", b"3", key="k")
            found = await fetch(heir, 3)
            got = bodies(found)
            assert sorted(got) == [b"1", b"2", b"3"]
            assert got.index(b"2") < got.index(b"3")
            await heir.ack(found)
            process.send_signal(signal.SIGCONT)
            line = await asyncio.to_thread(running.line, process)
            assert line == "lost 2 fetched False"
            await heir.close()
        finally:
            process.kill()
            process.communicate()
            await broker.close()

    run(main())


def test_tls(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    port = brokers.free_port()
    options = ("--tls-port", str(port), "--tls-ca-cert-file", f"{tmp_path}/ca.pem")
    files = ("--tls-key-file", f"{tmp_path}/key.pem", "--tls-cert-file", f"{tmp_path}/cert.pem")

    async def main() -> None:
        broker = table.make(f"rediss://127.0.0.1:{port}?ca={tmp_path}/ca.pem", "worker")
        with pytest.raises(BrokerUnavailable):
            await broker.connect()
        await broker.close()
        broker = table.make(f"rediss://127.0.0.1:{port}?ca={tmp_path}/absent", "worker")
        with pytest.raises(InvalidBrokerURL, match="ca=, cert= and key=: No such file"):
            await broker.connect()
        await broker.close()
        login = f"ca={tmp_path}/ca.pem&cert={tmp_path}/cert.pem&key={tmp_path}/key.pem"
        broker = table.make(f"rediss://127.0.0.1:{port}?{login}", "worker")
        await publish(broker, "a.b", b"x")
        await broker.close()

    try:
        with brokers.running("redis", tmp_path, *options, *files):
            run(main())
    except RuntimeError as error:
        if "tls" not in str(error).lower():
            raise
        pytest.skip("this server is built without TLS")
