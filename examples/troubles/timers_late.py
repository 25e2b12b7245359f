"""Hundreds of short callbacks are queued at once: timers wait until all of them have run."""

import asyncio
import time

started = time.monotonic()


def resize(image):  # FAULT timers-late: 500 of them are queued at once
    """Compute for 2 ms of CPU time."""
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass


async def main():
    loop = asyncio.get_running_loop()
    late = []
    for number in range(1, 21):
        due = loop.time() + number * 0.04
        loop.call_at(due, lambda due=due: late.append(loop.time() - due))
    for image in range(500):
        loop.call_soon(resize, image)
    while len(late) < 20:
        await asyncio.sleep(0.1)
    print(f"timers were up to {max(late):.2f} s late")


asyncio.run(main())
