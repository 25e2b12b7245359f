"""What every broker's adapter must do: noria/bus/contract.py. The same tests on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from noria.bus.brokers import table
from noria.bus.contract import Broker, Consumer, Delivery, Subscription
from noria.errors import InvalidBrokerURL
from support.adapters import bodies, fetch, handle_each, ids, publish
from support.loops import run_with_deadline, until_async

DEADLINE = 40.0  # seconds
# Seconds of the claims in tests that wait for their end.
SHORT_CLAIM = 1.0


def run(main: Coroutine[Any, Any, None]) -> None:
    run_with_deadline(main, DEADLINE)


@asynccontextmanager
async def connected(url: str, count: int = 1) -> AsyncIterator[list[Broker]]:
    """Yield connected brokers, as of several processes."""
    brokers = [table.make(url, f"worker-{next(ids)}") for _ in range(count)]
    for broker in brokers:
        await broker.connect()
    try:
        yield brokers
    finally:
        for broker in brokers:
            await broker.close()


async def fetch_nothing(consumer: Consumer, seconds: float = 0.3) -> None:
    """Check that the consumer gets nothing for a while."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            raise AssertionError(await consumer.fetch(10))


async def run_until_first_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines until one of them has ended; cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def test_events_arrive_once_with_their_bodies(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url) as [broker]:
            consumer = await broker.subscribe(Subscription(type, "g"))
            sent = [b"first", bytes(range(256)), b"x" * 100_000]
            await publish(broker, type, *sent)
            found = await fetch(consumer, 3)
            assert sorted(bodies(found)) == sorted(sent)
            assert [delivery.attempt for delivery in found] == [1, 1, 1]
            await consumer.ack(found)
            await fetch_nothing(consumer)
            await consumer.drain()
            await consumer.close()

    run(main())


def test_fetch_returns_no_more_than_its_limit(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url) as [broker]:
            consumer = await broker.subscribe(Subscription(type, "g"))
            await publish(broker, type, *(b"%d" % number for number in range(10)))
            found: list[Delivery] = []
            while len(found) < 10:
                more = await consumer.fetch(3)
                assert 1 <= len(more) <= 3
                found += more
            assert sorted(bodies(found)) == sorted(b"%d" % number for number in range(10))
            await consumer.ack(found)
            await consumer.close()

    run(main())


def test_fetch_waits_for_an_event(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url) as [broker]:
            consumer = await broker.subscribe(Subscription(type, "g"))
            waiting = asyncio.ensure_future(fetch(consumer, 1))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            await publish(broker, type, b"now")
            assert bodies(await waiting) == [b"now"]
            await consumer.close()

    run(main())


def test_a_group_shares_the_events_and_groups_each_get_all(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            first = await one.subscribe(Subscription(type, "shared"))
            second = await two.subscribe(Subscription(type, "shared"))
            other = await two.subscribe(Subscription(type, "other"))
            sent = [b"%d" % number for number in range(40)]
            await publish(one, type, *sent)
            shared: list[Delivery] = []

            async def take(consumer: Consumer) -> None:
                while len(shared) < len(sent):
                    found = await consumer.fetch(5)
                    shared.extend(found)
                    await consumer.ack(found)

            await run_until_first_ends(take(first), take(second))
            assert sorted(bodies(shared)) == sorted(sent)
            assert sorted(bodies(await fetch(other, 40))) == sorted(sent)
            for consumer in (first, second, other):
                await consumer.close()

    run(main())


def test_a_consumer_without_a_group_gets_what_is_published_from_now_on(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            keeper = await one.subscribe(Subscription(type, "g"))
            await publish(one, type, b"before")
            solo = [await broker.subscribe(Subscription(type)) for broker in (one, two)]
            await publish(one, type, b"after")
            for consumer in solo:
                found = await fetch(consumer, 1)
                assert bodies(found) == [b"after"]
                await consumer.ack(found)
                await consumer.close()
            await keeper.close()

    run(main())


def test_every_type_includes_types_that_are_new(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            consumer = await one.subscribe(Subscription("*"))
            await publish(two, f"{type}.a", b"a")
            await publish(two, f"{type}.b", b"b")
            assert sorted(bodies(await fetch(consumer, 2))) == [b"a", b"b"]
            await consumer.close()

    run(main())


def test_nak_gives_an_event_out_again_after_its_delay(url: str, type: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(url) as [broker]:
            consumer = await broker.subscribe(Subscription(type, "g"))
            await publish(broker, type, b"again")
            for attempt, delay in ((1, 0.0), (2, 0.4), (3, 0.0)):
                started = loop.time()
                [delivery] = await fetch(consumer, 1)
                assert delivery.attempt == attempt
                if attempt == 3:
                    assert loop.time() - started > 0.3
                    await consumer.ack([delivery])
                else:
                    await consumer.nak([delivery], delay)
            await fetch_nothing(consumer)
            await consumer.close()

    run(main())


def test_a_claim_that_ends_is_taken_over(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            if not one.durable:
                pytest.skip("its consumers end with the process")
            subscription = Subscription(type, "g", claim=SHORT_CLAIM)
            dead = await one.subscribe(subscription)
            await publish(one, type, b"orphan")
            [lost] = await fetch(dead, 1)
            heir = await two.subscribe(subscription)
            [found] = await fetch(heir, 1)
            assert (found.body, found.attempt) == (b"orphan", 2)
            await heir.ack([found])
            # What the first one still says of it is ignored.
            await dead.ack([lost])
            await dead.nak([lost])
            await fetch_nothing(heir, 2 * SHORT_CLAIM)
            await dead.close()
            await heir.close()

    run(main())


def test_an_extended_claim_is_kept(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            if not one.durable:
                pytest.skip("its claims do not end")
            subscription = Subscription(type, "g", claim=SHORT_CLAIM)
            holder = await one.subscribe(subscription)
            await publish(one, type, b"slow")
            found = await fetch(holder, 1)
            other = await two.subscribe(subscription)
            waiting = asyncio.ensure_future(other.fetch(1))
            for _ in range(12):
                await asyncio.sleep(SHORT_CLAIM / 4)
                assert not await holder.extend(found)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])
            await holder.ack(found)
            await holder.close()
            await other.close()

    run(main())


def test_a_closed_consumer_returns_what_it_has_claimed(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            first = await one.subscribe(Subscription(type, "g", claim=60.0))
            await publish(one, type, b"a", b"b")
            await fetch(first, 2)
            await first.drain()
            await first.close()
            second = await two.subscribe(Subscription(type, "g", claim=60.0))
            assert sorted(bodies(await fetch(second, 2))) == [b"a", b"b"]
            await second.close()

    run(main())


def test_a_cancelled_fetch_loses_nothing(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url) as [broker]:
            consumer = await broker.subscribe(Subscription(type, "g", claim=60.0))
            sent = [b"%d" % number for number in range(20)]
            found: list[Delivery] = []
            for body in sent:
                waiting = asyncio.ensure_future(consumer.fetch(10))
                publishing = asyncio.ensure_future(publish(broker, type, body))
                # At another moment each time: before, while and after the event arrives.
                for _ in range(len(found) % 7):
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
                if not waiting.cancelled():
                    found += waiting.result()
                await publishing
            found += await fetch(consumer, len(sent) - len(found))
            assert sorted(bodies(found)) == sorted(sent)
            await consumer.close()

    run(main())


def test_events_of_a_key_come_in_order_to_one_consumer_at_a_time(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            consumers = [
                await broker.subscribe(Subscription(type, "g", claim=5.0)) for broker in (one, two)
            ]
            keys = [f"key-{number}" for number in range(8)]
            sent = [(key, step) for step in range(6) for key in keys]
            for key, step in sent:
                await publish(one, type, b"%s %d" % (key.encode(), step), key=key)
            done: list[tuple[str, int]] = []
            holders: dict[str, int] = {}

            async def take(consumer: Consumer) -> None:
                while len(done) < len(sent):
                    found = await consumer.fetch(3)
                    names = [delivery.body.decode().split()[0] for delivery in found]
                    for name in names:
                        assert holders.setdefault(name, id(consumer)) == id(consumer)
                    await asyncio.sleep(0.002)
                    done.extend((d.body.decode().split()[0], int(d.body.split()[1])) for d in found)
                    for name in names:
                        holders.pop(name, None)
                    await consumer.ack(found)

            await run_until_first_ends(*map(take, consumers))
            for key in keys:
                assert [step for name, step in done if name == key] == list(range(6))
            for consumer in consumers:
                await consumer.close()

    run(main())


def test_the_events_of_a_key_return_in_their_order(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            first = await one.subscribe(Subscription(type, "g", claim=60.0))
            for body in (b"1", b"2", b"3", b"4"):
                await publish(one, type, body, key="k")
            # A broker may give out one event of a key at a time.
            found = await first.fetch(3)
            await first.ack(found[:1])
            await first.drain()
            await first.nak(found[1:])
            await first.close()
            second = await two.subscribe(Subscription(type, "g", claim=60.0))
            assert bodies(await handle_each(second, 3)) == [b"2", b"3", b"4"]
            await second.close()

    run(main())


def test_the_key_of_a_dead_consumer_is_taken_over_in_order(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            if not one.durable:
                pytest.skip("its consumers end with the process")
            subscription = Subscription(type, "g", claim=SHORT_CLAIM)
            dead = await one.subscribe(subscription)
            for body in (b"1", b"2", b"3"):
                await publish(two, type, body, key="k")
            assert (await fetch(dead, 1))[0].body == b"1"
            # As a process that was killed: nothing of it runs any more.
            await one.close()
            heir = await two.subscribe(subscription)
            found = await handle_each(heir, 3)
            assert bodies(found) == [b"1", b"2", b"3"]
            assert found[0].attempt == 2
            await heir.close()

    run(main())


def test_an_id_is_stored_once(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            consumer = await one.subscribe(Subscription(type, "g"))
            id = next(ids)
            await publish(one, type, b"1", id=id, deduplicate=True)
            await publish(two, type, b"2", id=id, deduplicate=True)
            await publish(two, type, b"3", id=next(ids), deduplicate=True)
            assert sorted(bodies(await fetch(consumer, 2))) == [b"1", b"3"]
            await fetch_nothing(consumer)
            await consumer.close()

    run(main())


def test_a_delayed_event_comes_later(url: str, type: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(url) as [broker]:
            consumer = await broker.subscribe(Subscription(type, "g"))
            started = loop.time()
            await publish(broker, type, b"later", delay=0.6)
            await publish(broker, type, b"now")
            found = await fetch(consumer, 1)
            assert bodies(found) == [b"now"]
            more = await fetch(consumer, 1)
            assert bodies(more) == [b"later"]
            assert loop.time() - started > 0.5
            await consumer.ack(found + more)
            await consumer.close()

    run(main())


def test_lag_counts_what_waits_and_what_is_in_flight(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url) as [broker]:
            consumer = await broker.subscribe(Subscription(type, "g", concurrency=2))

            async def has(waiting: int, in_flight: int) -> bool:
                rows = [row for row in await broker.lag() if row.type == type]
                return [(row.group, row.waiting, row.in_flight) for row in rows] == [
                    ("g", waiting, in_flight)
                ]

            await publish(broker, type, b"1", b"2", b"3")
            await until_async(lambda: has(3, 0))
            found = await fetch(consumer, 2)
            await until_async(lambda: has(1, 2))
            await consumer.ack(found)
            await until_async(lambda: has(1, 0))
            await consumer.close()

    run(main())


def test_a_group_gets_what_was_published_before_it_existed(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url) as [broker]:
            if not broker.durable:
                pytest.skip("an event without a group is dropped")
            await publish(broker, type, b"early")
            newest = await broker.subscribe(Subscription(type, "new", start="newest"))
            oldest = await broker.subscribe(Subscription(type, "old"))
            assert bodies(await fetch(oldest, 1)) == [b"early"]
            await publish(broker, type, b"late")
            assert bodies(await fetch(newest, 1)) == [b"late"]
            await oldest.close()
            await newest.close()

    run(main())


def test_dead_letters_are_kept_listed_and_forgotten(url: str, type: str) -> None:
    async def main() -> None:
        async with connected(url, 2) as [one, two]:
            before = await one.dead_letters(limit=1000)
            sent = [f"{type} letter {number}".encode() for number in range(5)]
            await one.bury(sent)

            async def listed() -> list[Any]:
                after = before[-1].id if before else ""
                found = []
                while more := await two.dead_letters(after=after, limit=2):
                    assert len(more) <= 2
                    found += more
                    after = more[-1].id
                return found

            found = await listed()
            assert [letter.body for letter in found] == sent
            await two.forget([found[1].id, found[3].id])
            await two.forget([found[1].id])
            assert [letter.body for letter in await listed()] == [sent[0], sent[2], sent[4]]
            await two.forget([letter.id for letter in await listed()])
            assert await listed() == []

    run(main())


def test_unknown_options_are_refused(url: str) -> None:
    with pytest.raises(InvalidBrokerURL, match="unknown option 'colour'"):
        table.make(f"{url}?colour=blue", "worker")


def test_close_may_be_called_again(url: str) -> None:
    async def main() -> None:
        async with connected(url) as [broker]:
            await broker.close()
            await broker.close()

    run(main())
