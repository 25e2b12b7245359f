"""A broker that is restarted: handlers go on, whether or not they have a group."""

from __future__ import annotations

import asyncio

import pytest

import noria
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
