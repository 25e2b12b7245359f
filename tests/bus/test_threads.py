"""Handlers that are no coroutine functions: their threads are the bus's own."""

from __future__ import annotations

import asyncio
import threading

import noria
from noria.bus import threads
from support.loops import run_with_deadline, until

DEADLINE = 20.0  # seconds
# More than the loop's executor has.
COUNT = 60


def bus_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("noria-bus")]


def test_as_many_handlers_run_at_once_as_the_concurrency_permits() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:concurrent-threads")
        together = threading.Barrier(COUNT)
        ended: list[int] = []

        def handle(event: noria.Event) -> None:
            together.wait(DEADLINE)
            ended.append(event.data["number"])

        bus.on("a.b", handle, group="g", concurrency=COUNT)
        async with bus:
            await asyncio.gather(*(bus.emit("a.b", number=number) for number in range(COUNT)))
            await until(lambda: len(ended) == COUNT)
        assert bus_threads() == []

    run_with_deadline(main(), DEADLINE)


def test_busy_handlers_leave_the_executor_of_the_loop_free() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:busy-handlers")
        release = threading.Event()
        started: list[int] = []

        def handle(event: noria.Event) -> None:
            started.append(1)
            release.wait(DEADLINE)

        bus.on("a.b", handle, group="g", concurrency=COUNT)
        async with bus:
            try:
                await asyncio.gather(*(bus.emit("a.b") for _ in range(COUNT)))
                await until(lambda: started)
                await asyncio.get_running_loop().getaddrinfo("localhost", 1)
                await until(lambda: len(started) == COUNT)
            finally:
                release.set()

    run_with_deadline(main(), DEADLINE)


def test_a_bus_does_not_wait_for_a_thread_that_does_not_end() -> None:
    async def main() -> None:
        bus = noria.Bus("memory:abandoned-threads")
        release = threading.Event()
        started = threading.Event()

        def handle(event: noria.Event) -> None:
            started.set()
            release.wait(DEADLINE)

        bus.on("a.b", handle, group="g", concurrency=1)
        await bus.start()
        await bus.emit("a.b")
        await bus.emit("a.b")
        await until(started.is_set)
        await bus.drain(0)
        # The second call had not begun.
        [call] = bus.abandoned_threads
        assert not call.done()
        release.set()
        await until(call.done)
        await until(lambda: not bus_threads())

    run_with_deadline(main(), DEADLINE)


def test_the_threads_are_limited() -> None:
    async def main() -> None:
        pool = threads.HandlerThreads(10**6)
        try:
            assert await pool.run(pow, 2, 3) == 8
            assert pool._executor._max_workers == threads.MAX_THREADS
            assert len(bus_threads()) == 1
        finally:
            pool.close()
        assert bus_threads() == []

    run_with_deadline(main(), DEADLINE)
