"""A handler computes for a long time: nothing else runs meanwhile."""

import asyncio
import time


def count_primes(end):
    """Count the primes found until the thread's CPU time is `end`."""
    found, first = 0, 900_001
    while time.thread_time() < end:
        numbers = range(first, first + 50_000, 2)
        found += sum(all(n % m for m in range(3, 1_000, 2)) for n in numbers)  # FAULT loop-blocked
        first += 50_000
    return found


async def main():
    ticks = asyncio.create_task(ticker())
    for _ in range(2):
        await asyncio.sleep(0.15)
        print(count_primes(time.thread_time() + 0.3), "primes")
    ticks.cancel()


async def ticker():
    while True:
        await asyncio.sleep(0.02)


asyncio.run(main())
