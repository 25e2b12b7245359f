"""A task whose awaits never suspend it: a queue that always has an item."""

import asyncio
import time


async def index(queue, words, end):
    while time.monotonic() < end:
        queue.put_nowait("a queue that is never empty " * 5)
        text = await queue.get()
        words.update(text.split())  # FAULT task-never-yields: no await of this loop suspends


async def main():
    ticks = asyncio.create_task(ticker())
    await asyncio.sleep(0.1)
    words = set()
    indexing = asyncio.create_task(index(asyncio.Queue(), words, time.monotonic() + 1.3))
    await indexing
    print(len(words), "words")
    await asyncio.sleep(0.1)
    ticks.cancel()


async def ticker():
    while True:
        await asyncio.sleep(0.02)


asyncio.run(main())
