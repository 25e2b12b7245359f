"""A coroutine calls time.sleep: nothing else runs meanwhile."""

import asyncio
import time


async def retry():
    for attempt in range(2):
        await asyncio.sleep(0.1)
        print("attempt", attempt, "failed, waiting")
        time.sleep(0.3)  # FAULT loop-blocked: asyncio.sleep would let the others run


async def main():
    tick = asyncio.create_task(ticker())
    await retry()
    tick.cancel()


async def ticker():
    before = time.monotonic()
    while True:
        await asyncio.sleep(0.02)
        now = time.monotonic()
        if now - before > 0.2:
            print(f"the ticker was {now - before - 0.02:.2f} s late")
        before = now


asyncio.run(main())
