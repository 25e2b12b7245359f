"""Each request leaves many objects in cycles, which only the garbage collector can free."""

import asyncio
import gc

cache = []


async def handle(request):
    cache.append([{"cache": cache, "request": request} for _ in range(3_000)])
    gc.collect()  # FAULT gc-pauses: every object of the program is examined


async def main():
    for request in range(50):
        await handle(request)
        await asyncio.sleep(0.02)
    print(len(cache), "requests")


asyncio.run(main())
