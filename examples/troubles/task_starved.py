"""Many tasks compute in small pieces and yield with sleep(0): each turn is long, a task starves."""

import asyncio
import time

WORKERS, PIECES = 60, 10


def piece():
    """Compute for 2 ms of CPU time."""
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass


async def worker():
    for _ in range(PIECES):
        piece()
        await asyncio.sleep(0)  # FAULT task-starved: all others have their turn first


async def heartbeat(queue):
    """Answer requests; each should take no time."""
    while (asked := await queue.get()) is not None:
        print(f"the heartbeat is {time.monotonic() - asked:.2f} s late")


async def main():
    queue = asyncio.Queue()
    beat = asyncio.create_task(heartbeat(queue))
    workers = asyncio.gather(*(worker() for _ in range(WORKERS)))
    while not workers.done():
        await asyncio.sleep(0.05)
        queue.put_nowait(time.monotonic())
    queue.put_nowait(None)
    await beat


asyncio.run(main())
