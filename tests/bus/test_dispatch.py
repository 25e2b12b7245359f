"""Dispatching and publishing on a broker that fails as the test says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from noria.bus import dispatch
from noria.bus.bus import Bus
from noria.bus.contract import (
    Broker,
    Consumer,
    Delivery,
    Lag,
    Message,
    StoredLetter,
    Subscription,
)
from noria.bus.event import Event
from noria.errors import BrokerUnavailable, BusError, EmitTimeout
from support.loops import run_with_deadline, until

pytestmark = pytest.mark.usefixtures("quiet")
DEADLINE = 20.0  # seconds


class ScriptedBroker(Broker):
    """Records what it is called with; each call first raises what `failures` has for it."""

    durable: ClassVar[bool] = True
    max_size = 1 << 20

    def __init__(self) -> None:
        self.failures: dict[str, list[BaseException]] = {}
        self.refused: dict[str, BusError] = {}
        self.published: list[list[str]] = []
        self.letters: list[bytes] = []
        self.queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self.limits: list[int] = []
        self.acked: list[int] = []
        self.naked: list[tuple[int, float]] = []
        self.extended: list[list[int]] = []
        self.lost: set[int] = set()
        self.calls: list[str] = []
        self.answering = asyncio.Event()
        self.answering.set()

    def fail(self, call: str) -> None:
        self.calls.append(call)
        if self.failures.get(call):
            raise self.failures[call].pop(0)

    def give(self, *events: Event, attempt: int = 1) -> None:
        for event in events:
            self.queue.put_nowait(Delivery(event.encode(), attempt, event.data))

    async def connect(self) -> None:
        self.fail("connect")

    async def publish(self, messages: Sequence[Message]) -> Mapping[int, BusError]:
        await self.answering.wait()
        self.fail("publish")
        # Without the type, which precedes an id that the program chose.
        ids = [message.id.rpartition(":")[2] for message in messages]
        self.published.append(ids)
        return {ids.index(id): error for id, error in self.refused.items() if id in ids}

    async def subscribe(self, subscription: Subscription) -> Consumer:
        self.fail("subscribe")
        return ScriptedConsumer(self)

    async def lag(self) -> list[Lag]:
        return []

    async def bury(self, letters: Sequence[bytes]) -> None:
        self.fail("bury")
        self.letters += letters

    async def dead_letters(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        return []

    async def forget(self, ids: Sequence[str]) -> None:
        pass

    async def disconnect(self) -> None:
        self.calls.append("disconnect")

    async def close(self) -> None:
        self.calls.append("close")


class ScriptedConsumer(Consumer):
    def __init__(self, broker: ScriptedBroker):
        self.broker = broker

    async def fetch(self, limit: int) -> list[Delivery]:
        self.broker.limits.append(limit)
        self.broker.fail("fetch")
        found = [await self.broker.queue.get()]
        while len(found) < limit and not self.broker.queue.empty():
            found.append(self.broker.queue.get_nowait())
        return found

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.broker.fail("ack")
        self.broker.acked += numbers(deliveries)

    async def nak(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        self.broker.fail("nak")
        self.broker.naked += [(number, delay) for number in numbers(deliveries)]

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        self.broker.fail("extend")
        self.broker.extended.append(numbers(deliveries))
        return [delivery for delivery in deliveries if delivery.token in self.broker.lost]

    async def drain(self) -> None:
        self.broker.fail("drain")

    async def close(self) -> None:
        self.broker.calls.append("close consumer")


def numbers(deliveries: Iterable[Delivery]) -> list[int]:
    return [delivery.token for delivery in deliveries]


def events(count: int, **options: Any) -> list[Event]:
    return [Event("a.b", number, **options) for number in range(count)]


def unavailable(count: int) -> list[BaseException]:
    return [BrokerUnavailable("gone") for _ in range(count)]


def scripted_bus(**options: Any) -> tuple[Bus, ScriptedBroker]:
    bus = Bus("memory:", **options)
    broker = ScriptedBroker()
    bus.broker = bus._publisher.broker = broker
    return bus, broker


def run(main: Coroutine[Any, Any, None]) -> None:
    run_with_deadline(main, DEADLINE)


async def refuse(event: Event) -> None:
    raise ValueError("no")


def test_fetching_and_acknowledging_resume_after_failures() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        found: list[int] = []

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            found.append(event.data)

        broker.failures = {"fetch": [*unavailable(2), OSError("odd")], "ack": unavailable(2)}
        async with bus:
            broker.give(*events(3))
            await until(lambda: len(broker.acked) == 3)
        assert found == broker.acked == [0, 1, 2]
        assert bus.registrations[0].stats.in_flight == 0

    run(main())


def test_no_more_is_fetched_than_concurrency_permits_until_acknowledged() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        gates = [asyncio.Event() for _ in range(8)]

        @bus.on("a.b", group="g", concurrency=3)
        async def handler(event: Event) -> None:
            await gates[event.data].wait()

        async with bus:
            broker.give(*events(8))
            stats = bus.registrations[0].stats
            await until(lambda: stats.in_flight == 3)
            await asyncio.sleep(0.02)
            assert sum(broker.limits) == broker.limits[0] == 3
            broker.failures["ack"] = unavailable(1)
            gates[1].set()
            await until(lambda: broker.calls.count("ack") == 1)
            # Handled, and not acknowledged yet: its place is still taken.
            assert stats.in_flight == 3
            await until(lambda: broker.acked == [1] and stats.in_flight == 3)
            assert broker.limits[1] == 1
            for gate in gates:
                gate.set()
            await until(lambda: len(broker.acked) == 8)

    run(main())


def test_a_dead_letter_is_stored_before_its_event_is_acknowledged() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        bus.on("a.b", refuse, group="g", retries=0)

        broker.failures = {"bury": unavailable(2)}
        async with bus:
            broker.give(*events(2))
            await until(lambda: len(broker.acked) == 2)
        assert len(broker.letters) == 2
        assert "ack" not in broker.calls[: broker.calls.index("bury") + 3]
        assert broker.calls.count("bury") == 3

    run(main())


def test_acknowledgements_do_not_wait_for_a_dead_letter(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        caplog.set_level("WARNING", "noria.bus")
        bus, broker = scripted_bus(concurrency=2)

        @bus.on("a.b", group="g", retries=0)
        async def handler(event: Event) -> None:
            if event.data == 0:
                raise ValueError("no")

        broker.failures = {"bury": [BrokerUnavailable("no room; start one") for _ in range(1000)]}
        async with bus:
            broker.give(*events(6))
            await until(lambda: len(broker.acked) == 5 and broker.calls.count("bury") >= 3)
            assert bus.in_flight == 1
            assert broker.naked == broker.letters == []
            warnings = [each for each in caplog.messages if "letters cannot be stored" in each]
            assert len(warnings) == 1
            assert "no room; their events" in warnings[0]
            broker.failures.clear()
            await until(lambda: not bus.in_flight)
        assert len(broker.letters) == 1
        assert broker.acked == [1, 2, 3, 4, 5, 0]

    run(main())


def test_an_event_whose_dead_letter_is_refused_is_not_lost() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        bus.on("a.b", refuse, group="g", retries=0)

        broker.failures = {"bury": [BusError("too large")]}
        async with bus:
            broker.give(*events(1))
            await until(lambda: broker.naked)
        assert broker.naked == [(0, dispatch.REFUSED_LETTER_DELAY)]
        assert broker.acked == []

    run(main())


def test_retries_go_through_the_broker_with_a_growing_delay() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()

        @bus.on("a.b", group="g", retries=9, backoff=1.0, max_backoff=4.0)
        async def handler(event: Event) -> None:
            raise ValueError("no")

        async with bus:
            for attempt in range(1, 10):
                for _ in range(20):
                    broker.give(Event("a.b", attempt), attempt=attempt)
            broker.give(Event("a.b", 10), attempt=10)
            await until(lambda: broker.letters and len(broker.naked) == 180)
        for attempt in range(1, 10):
            delays = [delay for number, delay in broker.naked if number == attempt]
            bound = min(4.0, 2.0 ** (attempt - 1))
            assert all(0 <= delay <= bound for delay in delays)
            # Full jitter: spread over the whole range (20 values in one half: once in 2**19).
            assert min(delays) < bound / 2 < max(delays)
        assert broker.acked == [10]

    run(main())


def test_a_key_is_retried_here_and_its_claim_is_kept() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        runs: list[tuple[int, int]] = []

        @bus.on("a.b", group="g", retries=2, backoff=0.01, max_backoff=0.01)
        async def handler(event: Event) -> None:
            runs.append((event.data, event.attempt))
            if event.data == 0:
                raise ValueError("no")

        async with bus:
            broker.give(*events(3, key="k"))
            await until(lambda: len(broker.acked) == 3)
        assert runs == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1)]
        assert broker.naked == []
        assert len(broker.letters) == 1

    run(main())


def test_an_event_of_another_group_does_not_start_the_next_one_of_its_key() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        gate = asyncio.Event()
        runs: list[int] = []

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            runs.append(event.data)
            await gate.wait()

        async with bus:
            broker.give(*events(2, key="k"), Event("a.b", 2, key="k", noriagroup="another"))
            await until(lambda: broker.acked == [2])
            broker.give(Event("a.b", 3, key="k"))
            await until(lambda: bus.in_flight == 3)
            await asyncio.sleep(0)
            assert runs == [0]
            gate.set()
            await until(lambda: broker.acked == [2, 0, 1, 3])
        assert runs == [0, 1, 3]

    run(main())


def test_claims_are_extended_and_lost_ones_forgotten() -> None:
    async def main() -> None:
        bus, broker = scripted_bus(claim=0.3)
        gate = asyncio.Event()
        runs: list[int] = []

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            runs.append(event.data)
            await gate.wait()
            if event.data == 1:
                raise ValueError("of no consequence: another worker has it")

        async with bus:
            one, two, three = events(3, key="k")
            other = Event("a.b", 3)
            broker.give(one, two, three, other)
            broker.failures["extend"] = unavailable(1)
            await until(lambda: [0, 1, 2, 3] in broker.extended)
            broker.lost = {1, 2}
            await until(lambda: len(broker.extended) >= 3)
            broker.lost = set()
            gate.set()
            stats = bus.registrations[0].stats
            await until(lambda: not stats.in_flight)
        # 1 and 2 waited for their key, and were not started.
        assert runs == [0, 3]
        assert sorted(broker.acked) == [0, 3]
        assert stats.lost == 2
        assert broker.naked == []

    run(main())


# A key's lease may end a quarter of a claim before the claim.
@pytest.mark.parametrize("later", [5.0, 3.2])
def test_a_claim_that_is_over_is_not_started(later: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus, broker = scripted_bus(claim=4.0)
        broker.lost = {dispatch.MAX_STARTS_PER_TURN + each for each in range(3)}
        runs: list[int] = []

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            runs.append(event.data)
            if event.data == 0:
                # The process is stopped, and continued when the claims are over.
                now = loop.time
                monkeypatch.setattr(loop, "time", lambda: now() + later)

        loop = asyncio.get_running_loop()
        async with bus:
            broker.give(*events(dispatch.MAX_STARTS_PER_TURN + 3))
            stats = bus.registrations[0].stats
            await until(lambda: stats.lost and not stats.in_flight)
        assert runs == list(range(dispatch.MAX_STARTS_PER_TURN))
        assert stats.lost == 3

    run(main())


def test_a_claim_that_may_be_over_is_renewed_before_its_event_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        bus, broker = scripted_bus(claim=4.0)
        broker.failures["extend"] = unavailable(1)
        runs: list[int] = []
        renewed: list[int] = []

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            runs.append(event.data)
            if event.data == 0:
                now = loop.time
                monkeypatch.setattr(loop, "time", lambda: now() + 3.2)
            elif event.data == 1:
                renewed.extend(each for numbers in broker.extended for each in numbers)

        loop = asyncio.get_running_loop()
        async with bus:
            broker.give(*events(3, key="k"))
            await until(lambda: broker.acked == [0, 1, 2])
            stats = bus.registrations[0].stats
        assert runs == [0, 1, 2]
        assert {1, 2} <= set(renewed)
        assert stats.lost == 0

    run(main())


def test_an_event_that_ends_its_workers_becomes_a_dead_letter() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        runs: list[int] = []

        @bus.on("a.b", group="g", retries=1)
        async def handler(event: Event) -> None:
            runs.append(event.attempt)

        last = 1 + 1 + dispatch.MAX_TAKEOVERS
        async with bus:
            broker.give(Event("a.b", 0), attempt=last)
            broker.give(Event("a.b", 1), attempt=last + 1)
            await until(lambda: len(broker.acked) == 2)
        assert runs == [last]
        assert len(broker.letters) == 1
        assert b"its workers died" in broker.letters[0]

    run(main())


def test_drain_returns_what_has_not_run_in_order() -> None:
    async def main() -> None:
        bus, broker = scripted_bus(claim=60.0)
        gate = asyncio.Event()

        @bus.on("a.b", group="g", retries=5, backoff=1000.0, max_backoff=1000.0)
        async def handler(event: Event) -> None:
            if event.key == "fails":
                raise ValueError("retried much later")
            await gate.wait()

        await bus.start()
        stats = bus.registrations[0].stats
        broker.give(
            *(Event("a.b", number, key="waits") for number in range(3)),
            *(Event("a.b", number, key="fails") for number in range(10, 13)),
        )
        await until(lambda: stats.in_flight == 6 and stats.failed == 1)
        draining = asyncio.ensure_future(bus.drain(grace=DEADLINE))
        # The delay of a retry is not waited for; its key is given back at once.
        await until(lambda: broker.naked)
        assert broker.naked == [(10, 0.0), (11, 0.0), (12, 0.0)]
        assert not draining.done()
        gate.set()
        await draining
        assert broker.acked == [0]
        assert broker.naked[3:] == [(1, 0.0), (2, 0.0)]
        assert broker.calls[-2:] == ["close consumer", "close"]
        assert stats.returned == 5

    run(main())


def test_drain_ends_although_a_handler_ignores_it_and_the_broker_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "CANCEL_SECONDS", 0.05)
    monkeypatch.setattr(dispatch, "SETTLE_SECONDS", 0.05)

    async def main() -> None:
        bus, broker = scripted_bus()
        gate = asyncio.Event()

        @bus.on("a.b", group="g")
        async def stubborn(event: Event) -> None:
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue

        await bus.start()
        broker.give(*events(1))
        await until(lambda: bus.registrations[0].stats.in_flight)
        broker.failures = {"nak": unavailable(100), "drain": unavailable(1)}
        await bus.drain(grace=0.01)
        assert broker.calls[-2:] == ["close consumer", "close"]
        gate.set()
        await asyncio.sleep(0)

    run(main())


def test_publishing_resumes_after_failures_with_the_same_ids() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        broker.failures = {"publish": unavailable(3)}
        await asyncio.gather(*(bus.emit("a.b", id=f"id-{number}") for number in range(3)))
        assert broker.published == [["id-0", "id-1", "id-2"]]
        assert broker.calls.count("publish") == 4
        await bus.close()
        assert bus.stats.published == 3

    run(main())


def test_emit_waits_up_to_its_time_out() -> None:
    async def main() -> None:
        bus, broker = scripted_bus(emit_timeout=60.0)
        broker.failures = {"publish": unavailable(1000)}
        with pytest.raises(
            EmitTimeout, match=r"'a.b': no confirmation within 0.05 s: gone"
        ) as info:
            await bus.emit("a.b", timeout=0.05)
        assert isinstance(info.value.__cause__, BrokerUnavailable)
        assert isinstance(info.value, TimeoutError)
        await bus.close()
        assert (bus.stats.published, bus.stats.failed) == (0, 1)

        bus, broker = scripted_bus(emit_timeout=60.0)
        broker.answering.clear()
        long = bus.emit("a.b")
        with pytest.raises(EmitTimeout, match="the broker did not answer"):
            await bus.emit("a.b", timeout=0.05)
        assert not long.done()
        broker.answering.set()
        await long
        await bus.close()
        assert (bus.stats.published, bus.stats.failed) == (1, 1)

    run(main())


def test_a_refused_event_fails_alone() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        broker.refused = {"bad": BusError("not that one")}
        results = await asyncio.gather(
            *(bus.emit("a.b", id=id) for id in ("good", "bad", "fine")), return_exceptions=True
        )
        assert results[0] is results[2] is None
        assert str(results[1]) == "not that one"
        with pytest.raises(BusError, match="not that one"):
            await bus.publish(Event("a.b"), Event("a.b", id="bad"))
        await bus.close()

    run(main())


def test_what_is_cancelled_before_its_turn_is_not_published() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        future = bus.emit("a.b", id="cancelled")
        future.cancel()
        await bus.emit("a.b", id="kept")
        await bus.close()
        assert broker.published == [["kept"]]

    run(main())


def test_an_error_of_the_adapter_ends_the_emits_and_no_more() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        broker.failures = {"publish": [RuntimeError("a bug")]}
        with pytest.raises(BusError, match="a bug"):
            await bus.emit("a.b")
        await bus.emit("a.b")
        await bus.close()

    run(main())


def test_close_publishes_what_is_emitted() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        future = bus.emit("a.b", id="last")
        await bus.close()
        assert broker.published == [["last"]]
        assert future.done()
        bus, broker = scripted_bus(emit_timeout=0.05)
        broker.answering.clear()
        future = bus.emit("a.b")
        await bus.close()
        with pytest.raises(EmitTimeout):
            await future

    run(main())


def test_start_may_be_repeated_when_the_broker_was_not_there() -> None:
    async def main() -> None:
        bus, broker = scripted_bus()
        found: list[int] = []

        async def handler(event: Event) -> None:
            found.append(event.data)

        bus.on("a.b", handler, group="one")
        bus.on("a.b", handler, group="two")
        broker.failures = {"connect": unavailable(1)}
        with pytest.raises(BrokerUnavailable):
            await bus.start()
        assert broker.calls == ["connect", "disconnect"]
        subscribe = broker.subscribe

        async def second_fails(subscription: Subscription) -> Consumer:
            if subscription.group == "two":
                raise BrokerUnavailable("gone")
            return await subscribe(subscription)

        broker.subscribe = second_fails  # type: ignore[method-assign]
        with pytest.raises(BrokerUnavailable):
            await bus.start()
        assert broker.calls[-2:] == ["close consumer", "disconnect"]
        broker.subscribe = subscribe  # type: ignore[method-assign]
        async with bus:
            broker.give(*events(1))
            await until(lambda: found)

    run(main())


def test_the_child_of_a_fork_is_another_worker() -> None:
    async def start(bus: Bus) -> str:
        async with bus:
            return bus.broker.worker

    bus = Bus("memory:")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, asyncio.run(start(bus)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        other = pipe.read()
    name = asyncio.run(start(bus))
    assert other
    assert name == bus.worker != other
    assert f"-{child}-" in other
