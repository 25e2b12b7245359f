"""More blocking jobs than the executor has workers: they wait for each other."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

WORKERS = 2


def look_up(name):  # FAULT executor-full: 2 workers, 16 jobs of 0.25 s
    """Ask a slow service."""
    time.sleep(0.25)
    return len(name)


async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(WORKERS))
    names = [f"host{number}" for number in range(16)]
    started = loop.time()
    await asyncio.gather(*(loop.run_in_executor(None, look_up, name) for name in names))
    print(f"{len(names)} jobs took {loop.time() - started:.1f} s")


asyncio.run(main())
