"""What the buses of a process have done: sums over buses, also of those that are gone."""

from __future__ import annotations

import asyncio
import gc
import os

import pytest

import noria
from noria.bus.figures import figures

LIMIT = 20.0


def of(broker):
    """Return the figures of a broker; None if there are none."""
    return next((each for each in figures() if each["broker"] == broker), None)


async def handle(url, number, error=None):
    """Run a bus until its handler has run this often."""
    bus = noria.Bus(url)
    done = asyncio.Event()
    runs = []

    @bus.on("job.done", group="jobs", retries=0)
    async def job(event):
        runs.append(event)
        if len(runs) == number:
            done.set()
        if error is not None:
            raise error

    async with bus, asyncio.timeout(LIMIT):
        for _ in range(number):
            await bus.emit("job.done")
        await done.wait()


def test_the_sums_outlive_the_buses():
    url = "memory:outlived"
    asyncio.run(handle(url, 3))
    asyncio.run(handle(url, 2, ValueError("no")))
    gc.collect()
    for _ in range(2):
        found = of(url)
        assert found["published"]["published"] == 5
        (row,) = found["handlers"]
        assert (row["type"], row["group"]) == ("job.done", "jobs")
        assert (row["handled"], row["failed"], row["dead"], row["in_flight"]) == (3, 2, 2, 0)
        assert row["seconds"]["count"] == 5
        assert found["lag"] is None


def test_the_lag_is_read_while_the_bus_runs():
    url = "memory:lagging"

    async def main():
        bus = noria.Bus(url)
        blocked = asyncio.Event()

        @bus.on("job.done", group="jobs", concurrency=1)
        async def job(event):
            await blocked.wait()

        async with bus, asyncio.timeout(LIMIT):
            for _ in range(3):
                await bus.emit("job.done")
            while bus.in_flight == 0:
                await asyncio.sleep(0)
            # From another thread, as an agent does.
            while (found := await asyncio.to_thread(of, url))["lag"] is None:
                await asyncio.sleep(0.01)
            blocked.set()
        return found

    found = asyncio.run(main())
    assert found["lag"] == [
        {"type": "job.done", "group": "jobs", "waiting": 2, "in_flight": 1, "delayed": 0}
    ]
    assert of(url)["lag"] is None


def test_two_buses_on_one_broker_are_added_up():
    url = "memory:shared-by-two"

    async def main():
        buses = [noria.Bus(url) for _ in range(2)]
        for bus in buses:
            async with bus:
                await bus.emit("job.done")
        return buses

    buses = asyncio.run(main())
    assert of(url)["published"]["published"] == len(buses)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_begins_anew():
    url = "memory:forked"
    asyncio.run(handle(url, 2))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        found = of(url)
        os.write(writer, b"none" if found is None else b"%d" % found["published"]["published"])
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    assert os.read(reader, 100) in (b"none", b"0")
    os.close(reader)
    assert of(url)["published"]["published"] == 2
