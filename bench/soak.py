"""A soak: mixed TCP, TLS and UDP with faults and cancellations for minutes, in one process.

It ends with no descriptor, task, thread or megabyte more than it began with, every byte came back
as it was sent, and nothing was raised that no fault explains; else the exit status is 1.

    python bench/soak.py                      5 minutes on the default model
    python bench/soak.py --seconds 10 --model epoll --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import harness
from traffic import KINDS, RARE, Site

import noria

CERTIFICATE = harness.BENCH.parent / "tests" / "data" / "localhost.pem"
AT_ONCE = 40  # tasks
THREADS = 4  # of the executor
CANCELLED = 0.1  # share of the tasks that are cancelled somewhere on their way
LONGEST = 30.0  # seconds that one task may take before it counts as hung
GROWTH = 1.0  # MB
WARM_UP = 0.2  # of the time: until caches and the allocators' arenas are full
SETTLE = 5.0  # seconds given to what is ending already


class Soak:
    def __init__(self, model: str, seed: int) -> None:
        self.model = model
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.cancelled = 0
        self.findings: Counter[str] = Counter()

    async def traffic(self, seconds: float, what: str) -> None:
        """Keeps AT_ONCE tasks going for so long, and ends when all have."""
        site = Site(str(CERTIFICATE), self.chance)
        await site.open()
        ending = time.monotonic() + seconds
        shown = asyncio.create_task(self.show(seconds, what))
        try:
            await asyncio.gather(*(self.one_after_another(site, ending) for _ in range(AT_ONCE)))
        finally:
            shown.cancel()
            harness.progress_end()
            await site.close()

    async def one_after_another(self, site: Site, ending: float) -> None:
        names = list(KINDS)
        weights = [RARE.get(name, 1) for name in names]
        while time.monotonic() < ending:
            (name,) = self.chance.choices(names, weights)
            task = asyncio.ensure_future(KINDS[name](site))
            if self.chance.random() < CANCELLED:
                await asyncio.sleep(self.chance.random() ** 4 / 10)
                task.cancel()
            try:
                async with asyncio.timeout(LONGEST):
                    await task
                self.done[name] += 1
            except asyncio.CancelledError:
                self.cancelled += 1
            except TimeoutError:
                self.found(f"{name} took more than {LONGEST:.0f} s")
            except Exception as error:
                self.found(f"{name}: {type(error).__name__}: {error}")

    def found(self, finding: str) -> None:
        self.findings[finding] += 1

    def unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What reached the loop's exception handler."""
        error = context.get("exception")
        self.found(f"{context['message']}: {type(error).__name__}: {error}")

    async def show(self, seconds: float, what: str) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(1)
            passed = min(time.monotonic() - began, seconds)
            harness.progress(
                int(passed), int(seconds), began, f"{what}: {self.done.total():,} done"
            )

    def run(self, seconds: float) -> dict[str, Any]:
        def loop() -> Any:
            made = noria.new_event_loop(self.model)
            made.set_exception_handler(self.unhandled)
            return made

        def run(main: Coroutine[Any, Any, None]) -> None:
            runner.run(main)

        with asyncio.Runner(loop_factory=loop) as runner, ThreadPoolExecutor(THREADS) as pool:
            runner.get_loop().set_default_executor(pool)
            start_threads(pool)
            run(self.traffic(seconds * WARM_UP, "warm-up"))
            before = settled(runner)
            self.done.clear()
            self.cancelled = 0
            run(self.traffic(seconds * (1 - WARM_UP), "soak"))
            after = settled(runner, before)
            model = runner.get_loop().model_name
        return {
            "model": model,
            "seconds": seconds,
            "done": dict(sorted(self.done.items())),
            "cancelled": self.cancelled,
            "findings": dict(self.findings),
            "before": before,
            "after": after,
        }


def start_threads(pool: ThreadPoolExecutor) -> None:
    """All that it will ever have: it makes one when it finds none idle."""
    barrier = threading.Barrier(THREADS + 1)
    for _ in range(THREADS):
        pool.submit(barrier.wait)
    barrier.wait()


def settled(runner: asyncio.Runner, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """What there is, when it no longer changes, or when it is no more than before."""

    async def counted() -> dict[str, Any]:
        end = time.monotonic() + (SETTLE if like else 1)
        while True:
            await asyncio.sleep(0.1)
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            now = {
                "descriptors": len(os.listdir("/proc/self/fd")),
                "tasks": len(asyncio.all_tasks()),
                "threads": threading.active_count(),
                "megabytes": memory(),
            }
            if time.monotonic() > end or (like and not more(like, now)):
                return now

    return runner.run(counted())


def memory() -> float:
    """MB of this process's own: what it would give back by ending."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = sum(
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("Private_Clean", "Private_Dirty"))
    )
    return round(kilobytes / 1024, 2)


def more(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """What there is more of than before, beyond what is allowed."""
    allowed = {"megabytes": GROWTH}
    grown = {name: round(after[name] - before[name], 2) for name in before}
    return {name: much for name, much in grown.items() if much > allowed.get(name, 0)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=300, help="in all (default: 300)")
    parser.add_argument("--model", default="auto", help="default: the loop's own choice")
    parser.add_argument("--seed", type=int, help="the same choices again (default: by chance)")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error("--seconds takes more than 0")
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    with contextlib.suppress(KeyboardInterrupt):
        result = {"seed": seed, **Soak(options.model, seed).run(options.seconds)}
        grown = more(result["before"], result["after"])
        if options.json:
            print(json.dumps({**result, "grown": grown}, indent=2))
        else:
            report(result, grown)
        return 1 if grown or result["findings"] else 0
    harness.progress_end()
    harness.say("stopped")
    return 130


def report(result: dict[str, Any], grown: dict[str, float]) -> None:
    print(f"{result['model']}, {result['seconds']:g} s, seed {result['seed']}")
    for name, times in result["done"].items():
        print(f"  {name:<20}{times:>10,}")
    print(f"  {'cancelled':<20}{result['cancelled']:>10,}")
    for name, value in result["before"].items():
        verdict = f"   {grown[name]:+} too many" if name in grown else ""
        print(f"  {name:<20}{value:>10} -> {result['after'][name]}{verdict}")
    for finding, times in result["findings"].items():
        print(f"  found {times} times: {finding}")
    print("nothing is left, nothing is lost" if not grown and not result["findings"] else "FAILED")


if __name__ == "__main__":
    sys.exit(main())
