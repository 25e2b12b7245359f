"""Each request leaves many objects in cycles, which only the garbage collector can free."""

import asyncio
import gc
import time

cache = []


async def handle(end):
    requests = 0
    while time.monotonic() < end:
        cache.append([{"cache": cache, "request": requests} for _ in range(10_000)])
        gc.collect()  # FAULT gc-pauses: every object of the program is examined
        requests += 1
        await asyncio.sleep(0.01)
    print(requests, "requests")


async def main():
    await handle(time.monotonic() + 0.9)


asyncio.run(main())
