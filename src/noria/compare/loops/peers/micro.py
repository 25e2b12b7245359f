"""Loop operations without a network: python -m noria.compare.loops.peers.micro CORES LOOP ROW.

For each line of input, {"seconds": S}, it runs the row for about S seconds and replies with
operations a second, and the shares of time for which the process ran and waited for a core. The
first reply only says that it is ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from noria.compare.loops.peers.common import loop_factory, pin, reason
from noria.compare.measure.child import Message, die_with_parent, reply
from noria.compare.noise import waited_seconds

Row = Callable[[int], Awaitable[None]]

FILE_BYTES = 16 * 1024
FILE_READERS = 8
THIS_THREAD = "thread-self"  # in /proc
BATCH = 100
TIMERS = 1000
CALIBRATION_SECONDS = 0.01
"""The first run is repeated with more operations until it takes this long."""


async def call_soon(count: int) -> None:
    """Run callbacks that each schedule the next, one per turn of the loop."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def step(left: int) -> None:
        if left:
            loop.call_soon(step, left - 1)
        else:
            done.set_result(None)

    loop.call_soon(step, count)
    await done


async def call_soon_batch(count: int) -> None:
    """Run BATCH callbacks per turn of the loop."""
    loop = asyncio.get_running_loop()
    for _ in range(-(-count // BATCH)):
        done = loop.create_future()
        for _ in range(BATCH - 1):
            loop.call_soon(int)
        loop.call_soon(done.set_result, None)
        await done


async def timers_fired(count: int) -> None:
    """Schedule TIMERS timers at a time, and wait until all have fired."""
    loop = asyncio.get_running_loop()
    for _ in range(-(-count // TIMERS)):
        done = loop.create_future()
        for i in range(TIMERS - 1):
            loop.call_later(i * 1e-7, int)
        loop.call_later(TIMERS * 1e-7, done.set_result, None)
        await done


async def timers_cancelled(count: int) -> None:
    """Schedule and cancel timers, as timeouts do that never expire."""
    loop = asyncio.get_running_loop()
    for i in range(count):
        loop.call_later(60, int).cancel()
        if i % TIMERS == 0:
            await asyncio.sleep(0)


async def nothing() -> None:
    """The smallest task."""


async def gather(count: int) -> None:
    """Gather BATCH tasks at a time."""
    for _ in range(-(-count // BATCH)):
        await asyncio.gather(*(nothing() for _ in range(BATCH)))


async def sleep0(count: int) -> None:
    """Yield to the loop with sleep(0)."""
    for _ in range(count):
        await asyncio.sleep(0)


async def call_soon_threadsafe(count: int) -> None:
    """Call call_soon_threadsafe from another thread."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def other() -> None:
        for _ in range(count - 1):
            loop.call_soon_threadsafe(int)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=other)
    thread.start()
    await done
    thread.join()


async def run_in_executor(count: int) -> None:
    """Run functions in the default executor, one after another."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        await loop.run_in_executor(None, int)


def file_row(loop: str) -> Row:
    """Return a row that reads whole files, by what the loop's package has for files."""
    handle, name = tempfile.mkstemp(prefix="noria-compare-")
    with os.fdopen(handle, "wb") as file:
        file.write(os.urandom(FILE_BYTES))
    # Read by descriptor: the file has no name from here on, so it cannot be left behind.
    held = os.open(name, os.O_RDONLY)
    os.unlink(name)
    path = f"/proc/self/fd/{held}"
    read = file_reader(loop, path)

    async def worker(count: int) -> None:
        for _ in range(count):
            if len(await read()) != FILE_BYTES:
                raise ValueError("the file was not read completely")

    async def row(count: int) -> None:
        await asyncio.gather(*(worker(-(-count // FILE_READERS)) for _ in range(FILE_READERS)))

    return row


def file_reader(loop: str, path: str) -> Callable[[], Awaitable[bytes]]:
    """Return a function that opens, reads and closes the file."""
    package = loop.partition("-")[0]
    if package not in FILE_PACKAGES:
        return lambda: asyncio.to_thread(Path(path).read_bytes)
    module: Any = __import__(package)

    async def read() -> bytes:
        async with module.open(path, "rb") as file:
            content: bytes = await file.read()
            return content

    return read


FILE_PACKAGES = ("noria", "blazio")
"""Loops whose package has an `open` of its own."""

ROWS: dict[str, Row] = {
    "call_soon": call_soon,
    "call_soon-batch": call_soon_batch,
    "timers-fired": timers_fired,
    "timers-cancelled": timers_cancelled,
    "gather": gather,
    "sleep0": sleep0,
    "call_soon_threadsafe": call_soon_threadsafe,
    "run_in_executor": run_in_executor,
}


class Bursts:
    """Runs of a row whose number of operations fits the requested time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, row: Row):
        self.loop = loop
        self.row = row
        self.rate = 0.0
        """Operations a second, in the latest run."""

    def _run(self, count: int) -> float:
        began = time.perf_counter()
        self.loop.run_until_complete(self.row(count))
        passed = time.perf_counter() - began
        self.rate = count / passed
        return passed

    def calibrate(self) -> None:
        """Run until a run takes CALIBRATION_SECONDS; this also does the one-time work."""
        count = TIMERS  # a multiple of every row's batch
        while self._run(count) < CALIBRATION_SECONDS:
            count *= 4

    def measure(self, seconds: float) -> Message:
        """Run for about `seconds`."""
        count = max(TIMERS, round(self.rate * seconds / TIMERS) * TIMERS)
        cpu, waited = time.process_time(), waited_seconds(THIS_THREAD) or 0.0
        passed = self._run(count)
        return {
            "value": self.rate,
            "busy": (time.process_time() - cpu) / passed,
            "waiting": ((waited_seconds(THIS_THREAD) or 0.0) - waited) / passed,
        }


def main(cores: str, name: str, row: str) -> int:
    """Run until the end of the input; return the exit status."""
    die_with_parent()
    try:
        factory = loop_factory(name)
        found = file_row(name) if row == "files-read" else ROWS[row]
        with asyncio.Runner(loop_factory=factory) as runner:
            bursts = Bursts(runner.get_loop(), found)
            pin(cores)
            bursts.calibrate()
            reply({"ready": True})
            for line in sys.stdin:
                reply(bursts.measure(**json.loads(line)))
    except Exception as error:
        reply({"error": reason(error), "kind": type(error).__name__})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
