"""Event loop operations without a network: loop_micro.py LOOP ROW.

Prints operations a second, and the share of time the process had a processor.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable

from factories import loop_factory


async def chain(count: int) -> None:
    """Run callbacks that each schedule the next."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def step(left: int) -> None:
        if left:
            loop.call_soon(step, left - 1)
        else:
            done.set_result(None)

    loop.call_soon(step, count)
    await done


async def burst(count: int) -> None:
    """Run 100 callbacks a turn."""
    loop = asyncio.get_running_loop()
    for _ in range(count // 100):
        done = loop.create_future()
        for _ in range(99):
            loop.call_soon(int)
        loop.call_soon(done.set_result, None)
        await done


async def sleep0(count: int) -> None:
    """Yield to the loop with sleep(0)."""
    for _ in range(count):
        await asyncio.sleep(0)


async def nothing() -> None:
    pass


async def gather(count: int) -> None:
    """Gather 100 tasks at a time."""
    for _ in range(count // 100):
        await asyncio.gather(*(nothing() for _ in range(100)))


async def cancelled(count: int) -> None:
    """Schedule and cancel timers."""
    loop = asyncio.get_running_loop()
    for i in range(count):
        loop.call_later(60, int).cancel()
        if i % 1000 == 0:
            await asyncio.sleep(0)


async def fired(count: int) -> None:
    """Schedule timers that fire."""
    loop = asyncio.get_running_loop()
    for _ in range(count // 1000):
        done = loop.create_future()
        for i in range(999):
            loop.call_later(i * 1e-7, int)
        loop.call_later(1e-4, done.set_result, None)
        await done


async def threadsafe(count: int) -> None:
    """Call call_soon_threadsafe from another thread."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def other() -> None:
        for _ in range(count - 1):
            loop.call_soon_threadsafe(int)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=other)
    thread.start()
    await done
    thread.join()


async def spawn(count: int) -> None:
    """Run subprocesses one after another."""
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()


ROWS: dict[str, tuple[Callable[[int], Awaitable[None]], int]] = {
    "call_soon chain": (chain, 200_000),
    "100 call_soon a turn": (burst, 200_000),
    "sleep(0)": (sleep0, 100_000),
    "gather of 100": (gather, 50_000),
    "timers cancelled": (cancelled, 100_000),
    "timers fired": (fired, 100_000),
    "call_soon_threadsafe": (threadsafe, 100_000),
    "spawn": (spawn, 100),
}


if __name__ == "__main__":
    row, count = ROWS[sys.argv[2]]
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(row(max(count // 10, 10)))  # warm-up for one-time work
        before, cpu = time.perf_counter(), time.process_time()
        runner.run(row(count))
        passed = time.perf_counter() - before
        print(count / passed, (time.process_time() - cpu) / passed)
