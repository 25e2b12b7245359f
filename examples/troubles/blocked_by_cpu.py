"""A handler computes for a long time: nothing else runs meanwhile."""

import asyncio
import time


def count_primes(end):
    """Count the primes found until the thread's CPU time is `end`."""
    found, number = 0, 1_000_000
    while time.thread_time() < end:
        found += all(number % other for other in range(2, int(number**0.5)))  # FAULT loop-blocked
        number += 1
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
