"""Many tasks compute in small pieces and yield with sleep(0): each turn is long, a task starves."""

import asyncio
import time

WORKERS = 60


def piece():
    """Compute for 2 ms."""
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        pass


async def worker(end):
    while time.monotonic() < end:
        piece()
        await asyncio.sleep(0)  # FAULT task-starved: all others have their turn first


async def heartbeat(queue):
    """Answer requests; each should take no time."""
    while (asked := await queue.get()) is not None:
        print(f"the heartbeat is {time.monotonic() - asked:.2f} s late")


async def main():
    queue = asyncio.Queue()
    beat = asyncio.create_task(heartbeat(queue))
    end = time.monotonic() + 1.6
    workers = [asyncio.create_task(worker(end)) for _ in range(WORKERS)]
    while time.monotonic() < end:
        await asyncio.sleep(0.05)
        queue.put_nowait(time.monotonic())
    await asyncio.gather(*workers)
    queue.put_nowait(None)
    await beat


asyncio.run(main())
