"""Subprocesses one after another: loop_spawn.py LOOP COUNT.

Prints subprocesses a second, and the share of time the process had a processor.
"""

from __future__ import annotations

import asyncio
import sys
import time

from noria.compare.loops.peers.common import loop_factory


async def spawn(count: int) -> None:
    """Run subprocesses one after another."""
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()


if __name__ == "__main__":
    count = int(sys.argv[2])
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(spawn(max(count // 10, 10)))  # warm-up for one-time work
        before, cpu = time.perf_counter(), time.process_time()
        runner.run(spawn(count))
        passed = time.perf_counter() - before
        print(count / passed, (time.process_time() - cpu) / passed)
