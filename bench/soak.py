"""Soak test: mixed TCP, TLS and UDP traffic with faults and cancellations, in one process.

The run has a warm-up, then phases of equal length. It fails (exit status 1)
- if after a phase there are more descriptors, tasks or threads than after the warm-up;
- if an echo came back changed, or an exception was raised that no injected fault explains;
- if memory grew by more than 1 MB in each of 3 successive phases.

A leak grows with every phase, while caches and the allocator's arenas fill only once. So a phase in
which memory grew is repeated, up to 3 phases in all; a run without growth ends after the first.

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import harness
from traffic import KINDS, WEIGHTS, Servers

import noria

CERTIFICATE = harness.BENCH.parent / "tests" / "data" / "localhost.pem"
CONCURRENT_TASKS = 40
EXECUTOR_THREADS = 4
CANCELLED_SHARE = 0.1  # of the tasks: cancelled after a random delay
TASK_TIMEOUT_SECONDS = 30.0  # a task that takes longer counts as hung
WARM_UP_SHARE = 0.2  # of --seconds
MAX_PHASES = 3
GROWTH_LIMIT_MB = 1.0  # of one phase
SETTLE_SECONDS = 5.0  # for tasks, threads and descriptors that are closing already

Usage = dict[str, Any]  # descriptors, tasks, threads, megabytes


class Soak:
    def __init__(self, model: str, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)
        self.completed: Counter[str] = Counter()
        self.cancelled = 0
        self.findings: Counter[str] = Counter()

    async def traffic(self, seconds: float, phase: str) -> None:
        """Keep CONCURRENT_TASKS tasks running for `seconds`; return when all have ended."""
        servers = Servers(str(CERTIFICATE), self.random)
        await servers.open()
        deadline = time.monotonic() + seconds
        progress = asyncio.create_task(self.show_progress(seconds, phase))
        try:
            await asyncio.gather(
                *(self.run_tasks(servers, deadline) for _ in range(CONCURRENT_TASKS))
            )
        finally:
            progress.cancel()
            harness.progress_end()
            await servers.close()

    async def run_tasks(self, servers: Servers, deadline: float) -> None:
        """Run one random task after another until the deadline."""
        names = list(KINDS)
        weights = [WEIGHTS.get(name, 1) for name in names]
        while time.monotonic() < deadline:
            (name,) = self.random.choices(names, weights)
            task = asyncio.ensure_future(KINDS[name](servers))
            if self.random.random() < CANCELLED_SHARE:
                await asyncio.sleep(self.random.random() ** 4 / 10)
                task.cancel()
            try:
                async with asyncio.timeout(TASK_TIMEOUT_SECONDS):
                    await task
                self.completed[name] += 1
            except asyncio.CancelledError:
                current = asyncio.current_task()
                if current is not None and current.cancelling():
                    raise  # the soak test itself is cancelled, for example by Ctrl-C
                self.cancelled += 1
            except TimeoutError:
                self.findings[f"{name} took more than {TASK_TIMEOUT_SECONDS:.0f} s"] += 1
            except Exception as error:
                self.findings[f"{name}: {type(error).__name__}: {error}"] += 1

    def handle_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        error = context.get("exception")
        self.findings[f"{context['message']}: {type(error).__name__}: {error}"] += 1

    async def show_progress(self, seconds: float, phase: str) -> None:
        started = time.monotonic()
        while True:
            await asyncio.sleep(1)
            elapsed = min(time.monotonic() - started, seconds)
            text = f"{phase}: {self.completed.total():,} tasks completed"
            harness.progress(int(elapsed), int(seconds), started, text)

    def run(self, seconds: float) -> dict[str, Any]:
        """Run the warm-up and the phases; return the figures as JSON has them.

        `seconds` is the time of the warm-up and the first phase together.
        """

        def new_loop() -> Any:
            loop = noria.new_event_loop(self.model)
            loop.set_exception_handler(self.handle_exception)
            return loop

        with (
            asyncio.Runner(loop_factory=new_loop) as runner,
            ThreadPoolExecutor(EXECUTOR_THREADS) as pool,
        ):
            loop = runner.get_loop()
            loop.set_default_executor(pool)
            start_threads(pool)
            runner.run(self.traffic(seconds * WARM_UP_SHARE, "warm-up"))
            usage = [settled_usage(runner)]
            self.completed.clear()
            self.cancelled = 0
            while needs_phase(usage) and not self.findings:
                phase = f"phase {len(usage)} of at most {MAX_PHASES}"
                runner.run(self.traffic(seconds * (1 - WARM_UP_SHARE), phase))
                usage.append(settled_usage(runner, usage))
            model = loop.model_name
        return {
            "model": model,
            "seconds": seconds,
            "done": dict(sorted(self.completed.items())),
            "cancelled": self.cancelled,
            "findings": dict(self.findings),
            "before": usage[0],
            "after": usage[-1],
            "phases": usage[1:],
            "grown": {} if needs_phase(usage) else leaks(usage),
        }


def start_threads(pool: ThreadPoolExecutor) -> None:
    """Start all threads of the pool now: it starts one only when it finds none idle."""
    barrier = threading.Barrier(EXECUTOR_THREADS + 1)
    for _ in range(EXECUTOR_THREADS):
        pool.submit(barrier.wait)
    barrier.wait()


def settled_usage(runner: asyncio.Runner, earlier: list[Usage] | None = None) -> Usage:
    """What this process uses now that the traffic has ended.

    Without `earlier`, wait one second. With it (the usage after the warm-up and after each phase),
    wait until nothing has grown, SETTLE_SECONDS at most.
    """

    async def poll() -> Usage:
        deadline = time.monotonic() + (SETTLE_SECONDS if earlier else 1)
        while True:
            await asyncio.sleep(0.1)
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            usage = {
                "descriptors": len(os.listdir("/proc/self/fd")),
                "tasks": len(asyncio.all_tasks()),
                "threads": threading.active_count(),
                "megabytes": private_memory_mb(),
            }
            if time.monotonic() > deadline or (earlier and not growth([*earlier, usage])):
                return usage

    return runner.run(poll())


def private_memory_mb() -> float:
    """MB of memory that only this process has: what its end would free."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = sum(
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("Private_Clean", "Private_Dirty"))
    )
    return round(kilobytes / 1024, 2)


def growth(usage: list[Usage]) -> dict[str, float]:
    """What grew beyond its limit: counts since the warm-up, memory in the last phase."""
    start, before, after = usage[0], usage[-2], usage[-1]
    grown = {name: after[name] - start[name] for name in ("descriptors", "tasks", "threads")}
    grown = {name: count for name, count in grown.items() if count > 0}
    megabytes = round(after["megabytes"] - before["megabytes"], 2)
    return grown | ({"megabytes": megabytes} if megabytes > GROWTH_LIMIT_MB else {})


def needs_phase(usage: list[Usage]) -> bool:
    """Whether one more phase is to run: there was none yet, or only memory grew in the last."""
    phases = len(usage) - 1
    return not phases or (phases < MAX_PHASES and growth(usage).keys() == {"megabytes"})


def leaks(usage: list[Usage]) -> dict[str, float]:
    """What grew, for the verdict: memory as a whole, since it grew in each of the phases."""
    grown = growth(usage)
    if "megabytes" in grown:
        grown["megabytes"] = round(usage[-1]["megabytes"] - usage[0]["megabytes"], 2)
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n    ", maxsplit=1)[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=300,
        help=f"warm-up and one phase; up to {MAX_PHASES} phases if memory grows (default: 300)",
    )
    parser.add_argument("--model", default="auto", help="I/O model (default: auto)")
    parser.add_argument("--seed", type=int, help="repeat a run's random choices (default: random)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args()
    if options.seconds <= 0:
        parser.error("--seconds must be more than 0")
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    with contextlib.suppress(KeyboardInterrupt):
        result = {"seed": seed, **Soak(options.model, seed).run(options.seconds)}
        if options.json:
            print(json.dumps(result, indent=2))
        else:
            print_result(result)
        return 1 if result["grown"] or result["findings"] else 0
    harness.progress_end()
    harness.log("interrupted")
    return 130


def print_result(result: dict[str, Any]) -> None:
    grown, findings = result["grown"], result["findings"]
    print(f"{result['model']}, {result['seconds']:g} s, seed {result['seed']}")
    for name, count in result["done"].items():
        print(f"  {name:<20}{count:>10,}")
    print(f"  {'cancelled':<20}{result['cancelled']:>10,}")
    for name, value in result["before"].items():
        values = " -> ".join(str(phase[name]) for phase in result["phases"])
        verdict = f"   grew by {grown[name]}" if name in grown else ""
        print(f"  {name:<20}{value:>10} -> {values}{verdict}")
    for finding, count in findings.items():
        print(f"  {count} times: {finding}")
    print("FAILED" if grown or findings else "passed: no leak, no lost byte, no exception")


if __name__ == "__main__":
    sys.exit(main())
