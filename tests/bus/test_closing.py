"""The end of a bus, and what is called at a wrong time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

import noria
from noria.bus.event import Event
from noria.errors import BrokerUnavailable, BusClosed
from support.loops import run_with_deadline, until

DEADLINE = 40.0  # seconds

pytestmark = pytest.mark.usefixtures("quiet")


def run(main: Coroutine[Any, Any, None]) -> None:
    run_with_deadline(main, DEADLINE)


@pytest.mark.parametrize("call", ["drain", "close"])
@pytest.mark.parametrize("waits", [False, True])
def test_a_handler_cannot_drain_its_own_bus(url: str, type: str, call: str, waits: bool) -> None:
    async def main() -> None:
        bus = noria.Bus(url)

        @bus.on(type, group="g", retries=0)
        async def handler(event: Event) -> None:
            if waits:
                await asyncio.sleep(0.001)
            await getattr(bus, call)()

        async with bus:
            await bus.emit(type)
            while not (letters := await bus.dead(type=type)):
                await asyncio.sleep(0.01)
        message = "BusError: drain and close wait for the handlers; in a handler, call stop"
        assert letters[0].error == message
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_handler_can_drain_another_bus() -> None:
    async def main() -> None:
        bus, other = noria.Bus("memory:"), noria.Bus("memory:")

        @bus.on("a.b", group="g")
        async def handler(event: Event) -> None:
            await other.drain()

        @other.on("a.b", group="g")
        async def unused(event: Event) -> None: ...

        await other.start()
        async with bus:
            await bus.emit("a.b")
            await until(lambda: bus.registrations[0].stats.handled)
        with pytest.raises(BusClosed):
            await other.connect()

    run(main())


def test_a_drain_that_is_cancelled_leaves_no_tasks(url: str, type: str) -> None:
    async def main() -> None:
        bus = noria.Bus(url)
        started = asyncio.Event()

        @bus.on(type, group="g")
        async def handler(event: Event) -> None:
            started.set()
            # In a task of its own, drain cannot know that a handler waits for it.
            await asyncio.create_task(bus.drain(grace=0.05))

        await bus.start()
        await bus.emit(type)
        await started.wait()
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    run(main())


def test_after_close_nothing_is_reached() -> None:
    async def main() -> None:
        # A port at which nothing listens: the message must not be about the broker.
        bus = noria.Bus("redis://127.0.0.1:1")
        await bus.close()
        for call in (bus.connect, bus.start, bus.lag, bus.dead):
            with pytest.raises(BusClosed, match="the bus is closed; make another one"):
                await call()
        for change in (bus.replay, bus.forget):
            with pytest.raises(BusClosed, match="the bus is closed; make another one"):
                await change([])

    pytest.importorskip("redis")
    run(main())


def test_a_drain_that_is_cancelled_ends_the_handlers() -> None:
    """The bus was closed and the handler ran on, beside the next one of its key."""

    async def main() -> None:
        bus = noria.Bus("memory:")
        ended: list[str] = []
        started = asyncio.Event()

        @bus.on("a.b", group="g")
        async def handler(event: noria.Event) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(event.type)

        await bus.start()
        await bus.emit("a.b", key="k")
        await started.wait()
        draining = asyncio.ensure_future(bus.drain())
        await asyncio.sleep(0.02)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert ended == ["a.b"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_drain_that_is_cancelled_at_once_closes_the_bus() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:")
        bus.on("a.b", lambda event: None, group="g")
        await bus.start()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await bus.drain()
        assert "closed" in repr(bus)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_thread_of_a_bus_that_could_not_start_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        bus = noria.Bus("memory:")
        begun, end = threading.Event(), threading.Event()
        subscribe = bus.broker.subscribe

        async def fails(subscription: Any) -> Any:
            if subscription.type == "c.d":
                await bus.emit("a.b")
                await asyncio.to_thread(begun.wait)
                raise BrokerUnavailable("gone")
            return await subscribe(subscription)

        monkeypatch.setattr(bus.broker, "subscribe", fails)

        def waits(event: noria.Event) -> None:
            begun.set()
            end.wait()

        bus.on("a.b", waits, group="g")
        bus.on("c.d", waits, group="g")
        try:
            with pytest.raises(BrokerUnavailable):
                await bus.start()
            assert len(bus.abandoned_threads) == 1
        finally:
            end.set()
        await bus.close()

    run(main())
