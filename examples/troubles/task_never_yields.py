"""A task whose awaits never suspend it: a queue that always has an item."""

import asyncio
import time


async def index(queue, words, seconds):
    """Index the queue for so many seconds of CPU time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        for _ in range(4_000):
            queue.put_nowait("a queue that is never empty " * 8)
            text = await queue.get()
            words.update(text.split())  # FAULT task-never-yields: no await of this loop suspends


async def main():
    ticks = asyncio.create_task(ticker())
    await asyncio.sleep(0.1)
    words = set()
    indexing = asyncio.create_task(index(asyncio.Queue(), words, 1.3))
    await indexing
    print(len(words), "words")
    await asyncio.sleep(0.1)
    ticks.cancel()


async def ticker():
    while True:
        await asyncio.sleep(0.02)


asyncio.run(main())
