"""noria.Bus on every broker: what handlers are promised."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

import noria
from noria.bus import trace_context
from noria.bus.brokers.memory import MemoryBroker
from noria.bus.bus import Bus
from noria.bus.contract import MAX_NAME_LENGTH, Consumer, Message, Subscription
from noria.bus.dead_letters import DeadLetter
from noria.bus.event import Event
from noria.errors import BrokerUnavailable, BusClosed, EventRejected, EventTooLarge, InvalidEvent
from support.loops import run_with_deadline, until

DEADLINE = 20.0  # seconds
FAST = {"backoff": 0.01, "max_backoff": 0.02}

pytestmark = pytest.mark.usefixtures("quiet")

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def run(main: Coroutine[Any, Any, None], loop_factory: Any = None) -> None:
    run_with_deadline(main, 2 * DEADLINE, loop_factory)


async def settled(bus: Bus, type: str) -> None:
    """Wait until no group of a type has anything left."""
    while True:
        rows = [row for row in await bus.lag() if row.type == type]
        if rows and not any(row.waiting or row.in_flight or row.delayed for row in rows):
            return
        await asyncio.sleep(0.01)


async def dead_letters(bus: Bus, type: str, count: int = 1) -> list[DeadLetter]:
    """Wait until a type has `count` dead letters; return them."""
    while len(letters := await bus.dead(type=type)) < count:
        await asyncio.sleep(0.01)
    return letters


@pytest.mark.parametrize("factory", [None, noria.new_event_loop], ids=["asyncio", "noria"])
def test_a_handler_gets_what_was_emitted(url: str, type: str, factory: Any) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[Event] = []

        @bus.on(type, group="g")
        async def handler(event: Event) -> None:
            found.append(event)

        async with bus:
            await bus.emit(type, name="a.txt", size=3)
            await until(lambda: found)
            await settled(bus, type)
        [event] = found
        assert (event.type, event.data, event.attempt) == (type, {"name": "a.txt", "size": 3}, 1)
        assert event.id
        assert event.source.startswith("//")
        assert event.time is not None
        assert bus.registrations[0].stats.handled == 1
        assert bus.stats.published == 1

    run(main(), factory)


def test_many_events_are_each_handled_once(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url, concurrency=20)
        found: Counter[int] = Counter()
        running = 0
        most = 0

        @bus.on(type, group="g")
        async def handler(event: Event) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if event.data["number"] % 3:
                await asyncio.sleep(0.001)
            running -= 1
            found[event.data["number"]] += 1

        async with bus:
            await asyncio.gather(*(bus.emit(type, number=number) for number in range(500)))
            await until(lambda: len(found) == 500)
            await settled(bus, type)
        assert set(found.values()) == {1}
        assert most <= 20
        # What is emitted in one turn goes to the broker together.
        assert bus.stats.batches < 50

    run(main())


def test_groups_each_get_all_and_processes_share(url: str, type: str) -> None:
    async def main() -> None:
        buses = [noria.Bus(url), noria.Bus(url)]
        shared: list[int] = []
        other: list[int] = []
        alone: list[tuple[int, int]] = []
        for index, bus in enumerate(buses):

            @bus.on(type, group="shared")
            async def first(event: Event) -> None:
                shared.append(event.data["number"])

            @bus.on(type, group="other")
            async def second(event: Event) -> None:
                other.append(event.data["number"])

            @bus.on(type)
            async def third(event: Event, index: int = index) -> None:
                alone.append((index, event.data["number"]))

        async with buses[0], buses[1]:
            for number in range(20):
                await buses[number % 2].emit(type, number=number)
            await until(lambda: len(shared) >= 20 and len(other) >= 20 and len(alone) >= 40)
            await settled(buses[0], type)
        assert sorted(shared) == sorted(other) == list(range(20))
        assert sorted(alone) == [(index, number) for index in range(2) for number in range(20)]

    run(main())


def test_a_handler_that_raises_is_retried(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        attempts: list[int] = []

        @bus.on(type, group="g", retries=3, **FAST)
        async def handler(event: Event) -> None:
            attempts.append(event.attempt)
            if event.attempt < 3:
                raise OSError("not yet")

        async with bus:
            await bus.emit(type)
            await until(lambda: len(attempts) == 3)
            await settled(bus, type)
            assert await bus.dead(type=type) == []
        assert attempts == [1, 2, 3]
        stats = bus.registrations[0].stats
        assert (stats.failed, stats.retried, stats.handled, stats.dead) == (2, 2, 1, 0)

    run(main())


def test_after_its_retries_an_event_is_a_dead_letter_that_can_be_replayed(
    url: str, type: str
) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        broken = True
        found: list[tuple[str, int]] = []
        others: list[str] = []
        solo: list[str] = []

        @bus.on(type, group="g", retries=2, **FAST)
        async def handler(event: Event) -> None:
            found.append((event.id, event.attempt))
            if broken:
                raise ValueError("no such tent: ü \ud800")

        @bus.on(type, group="other")
        async def other(event: Event) -> None:
            others.append(event.id)

        @bus.on(type)
        async def alone(event: Event) -> None:
            solo.append(event.id)

        async with bus:
            await bus.emit(type, id=f"{type}-1", name="a")
            letters = await dead_letters(bus, type)
            await settled(bus, type)
            assert found == [(f"{type}-1", attempt) for attempt in (1, 2, 3)]
            [letter] = letters
            assert letter.group == "g"
            assert letter.error == "ValueError: no such tent: ü \\ud800"
            assert "in handler" in letter.traceback
            assert letter.attempts == 3
            assert letter.worker == bus.worker
            assert letter.event.data == {"name": "a"}
            assert letter.as_dict()["event"]["id"] == f"{type}-1"
            assert await bus.dead(type=type, group="other") == []
            assert await bus.dead(type=type, group="g", limit=1) == letters

            broken = False
            assert await bus.replay(letters) == 1
            await until(lambda: len(found) == 4)
            await settled(bus, type)
            # As a new event, for the group that failed alone.
            assert found[3] == (f"{type}-1", 1)
            assert others == solo == [f"{type}-1"]
            assert await bus.dead(type=type) == []
        assert bus.registrations[0].stats.dead == 1

    run(main())


@dataclass
class Upload:
    name: str


def test_rejected_events_are_not_retried(url: str, type: str) -> None:
    pytest.importorskip("msgspec")

    async def main() -> None:
        bus = noria.Bus(url)
        names: list[str] = []

        @bus.on(type, group="typed", retries=5)
        async def typed(upload: Upload) -> None:
            names.append(upload.name)

        @bus.on(type, group="plain", retries=5)
        async def plain(event: Event) -> None:
            if "name" not in event.data:
                raise EventRejected("it has no name")

        async with bus:
            await bus.emit(type, name="a.txt")
            await bus.emit(type, size=3)
            letters = await dead_letters(bus, type, 2)
            await settled(bus, type)
            assert names == ["a.txt"]
            errors = {letter.group: letter.error for letter in letters}
            assert errors["plain"] == "EventRejected: it has no name"
            assert "missing required field `name`" in errors["typed"]
            assert [letter.attempts for letter in letters] == [1, 1]
            await bus.forget(letters)
            assert await bus.dead(type=type) == []

    run(main())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_key_keeps_its_order_while_it_is_retried(url: str, type: str, workers: int) -> None:
    async def main() -> None:
        buses = [noria.Bus(url, claim=5.0) for _ in range(workers)]
        done: list[tuple[str, int]] = []
        running: set[str] = set()

        async def handler(event: Event) -> None:
            key, step = event.key, event.data["step"]
            assert key is not None
            assert key not in running
            running.add(key)
            try:
                await asyncio.sleep(0.001)
                if event.attempt == 1 and step % 2:
                    raise OSError("once more")
                done.append((key, step))
            finally:
                running.discard(key)

        for bus in buses:
            bus.on(type, handler, group="g", **FAST)
        async with asyncio.TaskGroup() as group:
            for bus in buses:
                group.create_task(bus.start())
        keys = [f"key-{number}" for number in range(5)]
        for step in range(6):
            events = [Event(type, {"step": step}, key=key) for key in keys]
            await buses[0].publish(*events)
        await until(lambda: len(done) >= 30)
        await settled(buses[0], type)
        for bus in buses:
            await bus.drain()
        for key in keys:
            assert [step for name, step in done if name == key] == list(range(6))
        assert sum(bus.registrations[0].stats.dead for bus in buses) == 0

    run(main())


def test_a_handler_that_runs_longer_than_its_claim_keeps_it(url: str, type: str) -> None:
    async def main() -> None:
        buses = [noria.Bus(url, claim=0.6) for _ in range(2)]
        runs: list[int] = []

        async def handler(event: Event) -> None:
            runs.append(event.attempt)
            await asyncio.sleep(2.0)

        for bus in buses:
            bus.on(type, handler, group="g")
        async with buses[0], buses[1]:
            await bus.emit(type)
            await until(lambda: runs)
            await settled(bus, type)
        assert runs == [1]

    run(main())


def test_what_waits_while_the_loop_is_blocked_is_handled_in_order(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url, claim=1.0)
        runs: list[int] = []

        @bus.on(type, group="g")
        async def handler(event: Event) -> None:
            runs.append(event.data["n"])
            if len(runs) == 1:
                time.sleep(0.85)  # the claims last, a lease may have ended

        async with bus:
            await bus.publish(*(Event(type, {"n": n}, key="k") for n in range(4)))
            await until(lambda: 3 in runs)
            await bus.emit(type, key="k", n=4)
            await until(lambda: 4 in runs)
            await settled(bus, type)
        # An event whose lease had ended may come again.
        assert list(dict.fromkeys(runs)) == [0, 1, 2, 3, 4]

    run(main())


def test_drain_finishes_what_runs_and_returns_the_rest(url: str, type: str) -> None:
    async def main() -> None:
        keeper = noria.Bus(url)
        await keeper.connect()
        first = noria.Bus(url, claim=60.0)
        finished: list[int] = []
        started: list[int] = []
        gate = asyncio.Event()

        async def handler(event: Event) -> None:
            started.append(event.data["number"])
            await gate.wait()
            finished.append(event.data["number"])

        first.on(type, handler, group="g", concurrency=3)
        await first.start()
        for number in range(6):
            await keeper.emit(type, number=number)
        await until(lambda: len(started) == 3)
        draining = asyncio.ensure_future(first.drain(grace=DEADLINE))
        await asyncio.sleep(0.05)
        assert not draining.done()
        gate.set()
        await draining
        assert len(finished) == 3
        second = noria.Bus(url, claim=60.0)
        second.on(type, handler, group="g")
        async with second:
            await until(lambda: len(finished) == 6)
            await settled(second, type)
        await keeper.close()
        assert sorted(finished) == list(range(6))

    run(main())


def test_a_handler_that_does_not_end_in_its_grace_is_cancelled_and_its_event_returned(
    url: str, type: str
) -> None:
    async def main() -> None:
        keeper = noria.Bus(url)
        await keeper.connect()
        first, second = noria.Bus(url, claim=60.0), noria.Bus(url, claim=60.0)
        cancelled: list[int] = []
        attempts: list[tuple[int, int]] = []

        @first.on(type, group="g")
        async def endless(event: Event) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(event.data["number"])
                raise

        @second.on(type, group="g")
        async def handler(event: Event) -> None:
            attempts.append((event.data["number"], event.attempt))

        await first.start()
        for number in range(3):
            await keeper.publish(Event(type, {"number": number}, key="k" if number else None))
        await until(lambda: first.registrations[0].stats.in_flight >= 2)
        await first.drain(grace=0.05)
        assert 0 in cancelled
        async with second:
            await until(lambda: len(attempts) >= 3)
            await settled(second, type)
        await keeper.close()
        assert sorted(number for number, _ in attempts) == [0, 1, 2]
        assert [number for number, _ in attempts if number] == [1, 2]

    run(main())


def test_a_delayed_event_and_an_event_with_a_known_id(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[str] = []

        @bus.on(type, group="g")
        async def handler(event: Event) -> None:
            found.append(event.data["name"])

        async with bus:
            await bus.emit(type, delay=0.5, name="later")
            await bus.emit(type, id=f"{type}-same", name="first")
            await bus.emit(type, id=f"{type}-same", name="again")
            await until(lambda: len(found) >= 2)
            await settled(bus, type)
        assert found == ["first", "later"]

    run(main())


@pytest.mark.parametrize("length", [MAX_NAME_LENGTH, 126])
def test_names_may_be_long(url: str, type: str, length: int) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        got: list[tuple[str, str, int]] = []

        def register(name: str, group: str) -> None:
            def handler(event: Event) -> None:
                got.append((name, group, event.data["n"]))

            bus.on(name, handler, group=group)

        types = [f"{type}.{end}".rjust(length, "t") for end in "ab"]
        groups = [end.rjust(length, "g") for end in "ab"]
        both = [(name, group) for name in types for group in groups]
        for each in both:
            register(*each)
        async with bus:
            for name in types:
                await bus.emit(name, n=1)
                await bus.emit(name, n=2, key="k")
                await bus.emit(name, n=3, key="k", delay=0.1)
            await until(lambda: len(got) == 12)
            for name in types:
                await settled(bus, name)
            rows = [(row.type, row.group) for row in await bus.lag() if row.type in types]
        assert sorted(got) == [(*each, n) for each in both for n in (1, 2, 3)]
        assert rows == both

    run(main())


@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_an_id_is_of_one_type(url: str, type: str, delay: float) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[str] = []

        async def handler(event: Event) -> None:
            found.append(event.type)
            assert event.id == f"{type} 42"

        types = [type, f"{type}.else", f"{type}.last"]
        for each in types:
            bus.on(each, handler, group="g")
        async with bus:
            for each in types:
                await bus.emit(each, id=f"{type} 42", delay=delay)
                await bus.emit(each, id=f"{type} 42", delay=delay)
            await until(lambda: types[-1] in found)
            for each in types:
                await settled(bus, each)
        assert sorted(found) == types

    run(main())


def test_bytes_and_colliding_names_are_published_as_an_event(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[Event] = []
        bus.on(type, lambda event: found.append(event), group="g", concurrency=1)
        async with bus:
            await bus.publish(
                Event(type, b"\x89PNG", datacontenttype="image/png", key="k"),
                Event(type, {"key": "a", "id": 1, "delay": 2, "type": 3}, key="k"),
            )
            await until(lambda: len(found) == 2)
            await settled(bus, type)
        assert [event.data for event in found] == [
            b"\x89PNG",
            {"key": "a", "id": 1, "delay": 2, "type": 3},
        ]
        assert found[0].datacontenttype == "image/png"

    run(main())


def test_a_handler_that_is_no_coroutine_function_runs_in_a_thread(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        threads: list[int] = []

        def handler(event: Event) -> None:
            time.sleep(0.01)
            threads.append(threading.get_ident())
            if event.attempt == 1:
                raise OSError("again")

        bus.on(type, handler, group="g", **FAST)
        async with bus:
            await bus.emit(type)
            await until(lambda: len(threads) == 2)
            await settled(bus, type)
        assert threading.get_ident() not in threads

    run(main())


def test_each_run_has_its_own_context_and_task(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[tuple[str, Any]] = []

        @bus.on(type, group="g")
        async def handler(event: Event) -> None:
            found.append((variable.get(), asyncio.current_task()))
            variable.set("changed")

        async with bus:
            for _ in range(3):
                await bus.emit(type)
            await until(lambda: len(found) == 3)
            await settled(bus, type)
        assert [value for value, _ in found] == ["unset"] * 3
        assert len({id(task) for _, task in found}) == 3
        assert all(task is not None for _, task in found)

    run(main())


def test_emit_reports_what_is_wrong(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url, max_event_size=2000)
        await bus.connect()
        with pytest.raises(EventTooLarge, match="the limit is 2,000"):
            await bus.emit(type, text="x" * 3000)
        with pytest.raises(InvalidEvent, match="is no type"):
            await bus.emit("no type")
        with pytest.raises(InvalidEvent, match=r"no form in JSON|unsupported"):
            await bus.emit(type, file=object())
        with pytest.raises(ValueError, match="delay must be 0 to"):
            await bus.emit(type, delay=-1)
        await bus.emit(type, text="fits")
        await bus.close()
        with pytest.raises(BusClosed):
            await bus.emit(type)
        with pytest.raises(BusClosed):
            await bus.start()
        await bus.close()
        assert bus.stats.published == 1

    run(main())


def test_the_largest_event_can_become_a_dead_letter(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)

        @bus.on(type, group="g", retries=0)
        async def handler(event: Event) -> None:
            raise ValueError("x" * 10_000)

        async with bus:
            frame = len(Event(type, {"text": ""}).encode()) + 8
            await bus.emit(type, text='"' * ((bus.max_event_size - frame) // 2))
            letters = await dead_letters(bus, type)
            await settled(bus, type)
            assert len(letters[0].event.data["text"]) > 500_000
            await bus.forget(letters)

    run(main())


def test_handlers_come_and_go_while_the_bus_runs(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[int] = []

        async def handler(event: Event) -> None:
            found.append(event.data["number"])

        async with bus:
            bus.on(type, handler)

            async def arrives() -> bool:
                await bus.emit(type, number=0)
                await asyncio.sleep(0.01)
                return bool(found)

            while not await arrives():
                pass
            bus.off(type, handler)
            with pytest.raises(KeyError, match="no handler of"):
                bus.off(type, handler)
            await asyncio.sleep(0.1)
            found.clear()
            await bus.emit(type, number=1)
            await asyncio.sleep(0.1)
            assert found == []

    run(main())


def test_a_start_that_fails_halfway_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker is lost after the first of two subscriptions."""
    failures = [None, BrokerUnavailable("lost")]
    subscribe = MemoryBroker.subscribe

    async def failing(broker: MemoryBroker, subscription: Subscription) -> Consumer:
        failure = failures.pop(0) if failures else None
        if failure is not None:
            raise failure
        return await subscribe(broker, subscription)

    async def main() -> None:
        monkeypatch.setattr(MemoryBroker, "subscribe", failing)
        found: list[str] = []

        async def handler(event: Event) -> None:
            found.append(event.type)

        bus = noria.Bus("memory:")
        bus.on("a", handler)
        bus.on("b", handler)
        with pytest.raises(BrokerUnavailable, match="lost"):
            await bus.start()
        assert len(asyncio.all_tasks()) == 1
        await bus.start()
        await bus.emit("a")
        await bus.emit("b")
        await until(lambda: len(found) >= 2)
        await bus.drain()
        assert sorted(found) == ["a", "b"]

    run(main())


def test_an_event_that_is_none_is_buried(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[Event] = []
        bus.on(type, found.append, group="g")
        async with bus:
            before = len(await bus.dead())
            await bus.broker.publish([Message(type, b"\xff not JSON", f"{type}-1")])
            while len(letters := await bus.dead()) == before:
                await asyncio.sleep(0.01)
            letter = letters[-1]
            assert letter.body == b"\xff not JSON"
            assert letter.error.startswith("InvalidEvent: the event is not JSON")
            with pytest.raises(InvalidEvent):
                await bus.replay([letter])
            await bus.forget([letter])
            await settled(bus, type)
        assert found == []

    run(main())


def test_the_trace_context_reaches_the_handler_and_what_it_emits(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: dict[str, str | None] = {}

        @bus.on(f"{type}.first", group="g")
        async def first(event: Event) -> None:
            found["event"] = event.traceparent
            found["handler"] = trace_context.current()
            await bus.emit(f"{type}.second")

        @bus.on(f"{type}.second", group="g")
        async def second(event: Event) -> None:
            found["second"] = event.traceparent
            found["state"] = event.attributes.get("tracestate")

        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        async with bus:
            await bus.emit(f"{type}.first")
            await until(lambda: "second" in found)
            assert found["event"] is found["handler"] is found["second"] is None
            found.clear()
            trace_context.set_current(parent, "congo=t61rcWkgMzE")
            await bus.emit(f"{type}.first")
            trace_context.set_current(None)
            await until(lambda: "second" in found)
        assert found["event"] == parent
        child = found["handler"]
        assert child is not None
        assert child != parent
        assert child.split("-")[1] == parent.split("-")[1]
        assert found["second"] == child
        assert found["state"] == "congo=t61rcWkgMzE"

    run(main())


def run_reactor(model: str, prepare: Callable[[noria.Reactor], None]) -> tuple[Any, Any]:
    reactor = noria.Reactor(model)
    prepare(reactor)
    thread = threading.Thread(target=reactor.run, name="reactor")
    thread.start()
    return reactor, thread


@pytest.mark.parametrize("model", ["epoll", "poll"])
def test_a_bus_feeds_a_reactor(url: str, type: str, model: str) -> None:
    found: list[tuple[str, int, int]] = []

    def handler(name: str, size: int) -> None:
        found.append((name, size, threading.get_ident()))

    def fails_once(name: str, size: int) -> None:
        if len(found) == 1:
            raise OSError("again")

    def prepare(reactor: noria.Reactor) -> None:
        reactor.on(type, handler)
        reactor.on(type, fails_once)

    async def main(reactor: noria.Reactor) -> None:
        bus = noria.Bus(url)
        bus.feed(reactor, type, group="g", **FAST)
        async with bus:
            await bus.emit(type, name="a.txt", size=3)
            # A handler that raises: all of them run again.
            await until(lambda: len(found) == 2)
            await settled(bus, type)
            await bus.publish(Event(type, ["no object"]))
            letters = await dead_letters(bus, type)
            assert "the data of" in letters[0].error
            await bus.forget(letters)

    reactor, thread = run_reactor(model, prepare)
    try:
        run(main(reactor))
    finally:
        reactor.stop()
        thread.join()
        reactor.close()
    assert [(name, size) for name, size, _ in found] == [("a.txt", 3)] * 2
    assert {ident for _, _, ident in found} == {thread.ident}


def test_run_handles_events_until_stop(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        found: list[Event] = []

        @bus.on(type, group="g")
        async def handler(event: Event) -> None:
            found.append(event)
            bus.stop()

        running = asyncio.ensure_future(bus.run())
        await bus.emit(type)
        await running
        assert len(found) >= 1

    if url.startswith("memory"):
        pytest.skip("what is emitted before the subscription is dropped")
    run(main())
