"""What programs that run a bus use: concurrency, the end of runs, cancelling, logs of retries."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import noria
from noria.errors import BusClosed

LIMIT = 20.0


def test_set_concurrency_leaves_handlers_that_have_their_own() -> None:
    bus = noria.Bus("memory:", concurrency=10)
    bus.on("a", print)
    bus.on("b", print, concurrency=10)
    bus.set_concurrency(3)
    bus.on("c", print)
    assert [each.subscription.concurrency for each in bus.registrations] == [3, 10, 3]
    with pytest.raises(ValueError, match="concurrency"):
        bus.set_concurrency(0)

    async def main() -> None:
        async with bus:
            with pytest.raises(BusClosed):
                bus.set_concurrency(4)

    asyncio.run(main())


def test_on_handled_is_called_after_each_run(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[Any, ...]] = []
    bus = noria.Bus("memory:")

    async def main() -> None:
        done = asyncio.Event()

        @bus.on("a", group="g", retries=1, backoff=0.001)
        async def handler(event: noria.Event) -> None:
            if event.attempt == 1:
                raise ValueError("the first time")

        def on_handled(*arguments: Any) -> None:
            seen.append(arguments)
            if len(seen) == 2:
                done.set()

        bus.on_handled = on_handled
        async with bus, asyncio.timeout(LIMIT):
            await bus.emit("a")
            await done.wait()

    with caplog.at_level(logging.WARNING, "noria.bus"):
        asyncio.run(main())
    (registration, event, seconds, error), (_, _, _, none) = seen
    assert registration is bus.registrations[0]
    assert event.type == "a"
    assert seconds >= 0
    assert isinstance(error, ValueError)
    assert none is None
    # A retry is one line, without the traceback.
    (record,) = caplog.records
    assert "failed at attempt 1 of 2: ValueError: the first time; next" in record.getMessage()
    assert record.exc_info is None


def test_cancelled_handlers_give_their_events_back() -> None:
    async def main() -> tuple[noria.Bus, noria.Bus]:
        first, second = (noria.Bus("memory:cancelled") for _ in range(2))
        running = asyncio.Event()
        handled = asyncio.Event()

        @first.on("a", group="g")
        async def wait(event: noria.Event) -> None:
            running.set()
            await asyncio.sleep(3600)

        @second.on("a", group="g")
        async def handle(event: noria.Event) -> None:
            handled.set()

        async with asyncio.timeout(LIMIT):
            await second.connect()
            await first.start()
            await first.emit("a")
            await running.wait()
            assert first.in_flight == 1
            draining = asyncio.ensure_future(first.drain(3600))
            await asyncio.sleep(0)
            first.cancel_handlers()
            await draining
            assert first.in_flight == 0
            async with second:
                await handled.wait()
        return first, second

    first, second = asyncio.run(main())
    stats = first.registrations[0].stats
    assert (stats.handled, stats.failed, stats.retried, stats.returned) == (0, 0, 0, 1)
    assert second.registrations[0].stats.handled == 1
