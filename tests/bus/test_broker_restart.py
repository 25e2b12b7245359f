"""A broker that is restarted: handlers go on, whether or not they have a group."""

from __future__ import annotations

import asyncio

import pytest

import noria
from noria.errors import BrokerUnavailable
from support.brokers import PROGRAMS, BrokerServer
from support.loops import until


@pytest.mark.parametrize("own_server", PROGRAMS, indirect=True)
@pytest.mark.usefixtures("quiet")
def test_handlers_get_events_after_a_restart(own_server: BrokerServer) -> None:
    async def main() -> None:
        found: dict[str, set[int]] = {"all": set(), "group": set()}

        async def everyone(event: noria.Event) -> None:
            found["all"].add(event.data["number"])

        async def one(event: noria.Event) -> None:
            found["group"].add(event.data["number"])

        bus = noria.Bus(own_server.url)
        bus.on("restart.test", everyone)
        bus.on("restart.test", one, group="group")
        async with asyncio.timeout(50), bus:
            await bus.emit("restart.test", number=0)
            await until(lambda: found["all"] == found["group"] == {0})
            await asyncio.to_thread(own_server.stop)
            await asyncio.to_thread(own_server.start)
            number = 0
            # One without a group misses what is published before it has subscribed again.
            while max(found["all"]) < 1:
                number += 1
                await bus.emit("restart.test", number=number, timeout=30)
                await asyncio.sleep(0.01)
            await until(lambda: found["group"] == set(range(number + 1)))

    noria.run(main())


@pytest.mark.parametrize("own_server", PROGRAMS, indirect=True)
@pytest.mark.usefixtures("quiet")
def test_a_bus_whose_start_failed_is_started_again(own_server: BrokerServer) -> None:
    async def main() -> None:
        found: list[int] = []

        async def handle(event: noria.Event) -> None:
            found.append(event.data["number"])

        own_server.stop()
        bus = noria.Bus(own_server.url)
        bus.on("start.test", handle, group="group")
        async with asyncio.timeout(50):
            # What was emitted before waits for the broker.
            early = bus.emit("start.test", number=0, timeout=40)
            for _ in range(3):
                with pytest.raises(BrokerUnavailable, match="connection refused"):
                    await bus.start()
            await asyncio.to_thread(own_server.start)
            async with bus:
                await early
                await bus.emit("start.test", number=1)
                await until(lambda: found == [0, 1])

    noria.run(main())


@pytest.mark.parametrize("own_server", PROGRAMS, indirect=True)
@pytest.mark.usefixtures("quiet")
def test_a_start_that_is_cancelled_does_not_end_publications(own_server: BrokerServer) -> None:
    async def main() -> None:
        bus = noria.Bus(own_server.url)

        async def handle(event: noria.Event) -> None:
            pass

        bus.on("start.test", handle)
        async with asyncio.timeout(50):
            starting = asyncio.ensure_future(bus.start())
            emitted = bus.emit("start.test", timeout=40)
            # Both connect now.
            await asyncio.sleep(0)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await emitted
            await bus.close()

    noria.run(main())
