"""Seeds, the loop under test, and the checks that every fuzzer makes after each seed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from support.loops import alive, count, run

SECONDS = float(os.environ.get("NORIA_FUZZ_SECONDS", "0"))  # for each test, in long runs by hand
SEED = os.environ.get("NORIA_FUZZ_SEED")  # the one seed to replay

LIMIT = 20.0  # seconds that one seed may take on a busy machine

LEAKS = ("Connection", "Transport", "Protocol", "Stream", "Handle", "Descriptor", "Watcher", "Loop")

BLOB = random.Random(1).randbytes(1 << 20)  # the bytes that fuzzers send are slices of this


def seeds(usual: int, full: int) -> Iterator[int]:
    """Yield the seeds to run: a few, many with NORIA_COUNTS=full, or as the time limit allows."""
    if SEED is not None:
        yield int(SEED)
    elif SECONDS:
        end = time.monotonic() + SECONDS
        seed = random.SystemRandom().randrange(1 << 40)
        while time.monotonic() < end:
            yield seed
            seed += 1
    else:
        yield from range(count(usual, full))


def fuzz(one: Callable[[random.Random], object], usual: int, full: int) -> None:
    """Call `one` with the random generator of each seed; a failure states how to replay it.

    Afterwards no loop object may be alive that was not alive before.
    """
    before = alive(*LEAKS)
    for seed in seeds(usual, full):
        with replayable(seed):
            one(random.Random(seed))
    after = alive(*LEAKS)
    assert after <= before, f"objects left over: {after - before}"


@contextlib.contextmanager
def replayable(seed: int) -> Iterator[None]:
    """Add the seed to a failure inside the block."""
    print(f"seed {seed}", flush=True)  # pytest shows it if the test is killed
    try:
        yield
    except BaseException as error:
        error.add_note(f"replay with NORIA_FUZZ_SEED={seed}")
        raise


def open_descriptors() -> dict[int, str]:
    """Return the open descriptors of this process and their files."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor that listed the directory
    return found


class Violations:
    """Broken invariants, recorded by callbacks, as the loop would only log their exceptions."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.first = asyncio.get_running_loop().create_future()

    def add(self, message: str) -> None:
        """Record one; the running seed ends."""
        self.found.append(message)
        if not self.first.done():
            self.first.set_result(None)

    def check(self, condition: object, message: str) -> None:
        """Record `message` unless the condition holds."""
        if not condition:
            self.add(message)

    async def guard(self, work: Awaitable[Any], describe: Callable[[], object]) -> None:
        """Await the work until it is done, an invariant breaks, or the seed's time limit passes."""
        task = asyncio.ensure_future(work)
        await asyncio.wait({task, self.first}, timeout=LIMIT, return_when="FIRST_COMPLETED")
        if not task.done():
            state = f"{describe()}"
            task.cancel()
            await asyncio.wait({task}, timeout=1)
            if not self.found:
                self.found.append(f"not finished after {LIMIT} s: {state}")
        assert not self.found, "\n".join(self.found[:5])
        await task


def run_checked(main: Callable[[], Coroutine[Any, Any, None]], model: str) -> None:
    """Run `main()` on the loop; fail if it reports an error or leaves a descriptor or task."""
    before = open_descriptors()
    reports: list[str] = []

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        reports.append(f"{context.get('message')} {context.get('exception')!r} {context}")

    async def reported() -> None:
        asyncio.get_running_loop().set_exception_handler(report)
        await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {left}"

    try:
        run(reported(), model)
    except BaseException as error:
        for line in reports[:3]:
            error.add_note(f"the loop reported: {line}")
        raise
    assert not reports, "\n".join(reports[:3])
    after = open_descriptors()
    assert after == before, f"descriptors left over: {after.items() - before.items()}"


def start_eagerly(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start an eager task where Python supports it (3.12), else a normal task."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)


def some_bytes(rng: random.Random, size: int) -> bytes:
    """Return `size` bytes that differ between calls."""
    start = rng.randrange(len(BLOB) - size + 1)
    return BLOB[start : start + size]
