"""Rows without a load generator: scheduling, timers, subprocesses, start-up, memory."""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import replace

import memory
from harness import BENCH, LIMIT, Unavailable, built

from noria.compare.loops.alone import operations
from noria.compare.loops.row import Start
from rows.row import (
    PYTHON_PEERS,
    UVLOOP,
    Place,
    Row,
    Sample,
    one_shot,
    run_and_parse,
    server_command,
)

STARTS = 11  # measured starts
IDLE = 10_000  # connections
SPAWNED, SPAWNED_BY_LOOPS = 200, 100  # children of the C program, of a loop
OPERATIONS_SECONDS = 0.3  # of scheduling; longer adds nothing

RUN = """
async def empty(): pass
import {package}
if hasattr({package}, "run"):
    {package}.run(empty(){model})
else:
    import asyncio
    asyncio.run(empty(), loop_factory={package}.new_event_loop)
"""


def scheduling(row: str, *, threads: bool = False) -> Start:
    """Return the start of a row of `noria compare loops`, in operations a second."""
    start = operations(row, threads=threads)
    return lambda loop, at: start(loop, replace(at, seconds=min(at.seconds, OPERATIONS_SECONDS)))


@one_shot
def spawn(loop: str, at: Place) -> Sample:
    """Measure subprocesses a second."""
    words = [sys.executable, str(PYTHON_PEERS / "loop_spawn.py"), loop, str(SPAWNED_BY_LOOPS)]
    if loop == LIMIT:
        words = [str(built(BENCH / "limit" / "spawn.c")), str(SPAWNED)]
    # The child may run on the other core.
    return Sample(*run_and_parse(words, 120, {at.server, at.load}))


@one_shot
def start_up(loop: str, at: Place) -> Sample:
    """Measure the run of a program with an empty coroutine: its median duration in milliseconds."""
    package, _, model = loop.partition("-")
    text = RUN.format(package=package, model=f", model={model!r}" if model else "")
    # An installed package has its bytecode on disk, so every peer must write it here.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(STARTS + 1):
        began = time.perf_counter()
        run_and_parse([sys.executable, "-c", text], 30, {at.server}, environment)
        times.append((time.perf_counter() - began) * 1e3)
    return Sample(statistics.median(times[1:]))


@one_shot
def idle(loop: str, at: Place) -> Sample:
    """Measure resident bytes per idle connection, counted from the thousandth on."""
    words = server_command(loop, "protocol")
    try:
        _, each = memory.measure(words, IDLE - memory.FIRST, at.server)
    except OSError as error:
        raise Unavailable(str(error)) from None
    return Sample(each)


ROWS = (
    Row("call_soon chain", scheduling("call_soon"), driven=False, goal=4.5, against=UVLOOP),
    Row("100 call_soon a turn", scheduling("call_soon-batch"), driven=False),
    Row("sleep(0)", scheduling("sleep0"), driven=False, goal=2.2, against=UVLOOP),
    Row("gather of 100", scheduling("gather"), driven=False),
    Row("timers cancelled", scheduling("timers-cancelled"), driven=False, goal=4.5, against=UVLOOP),
    Row("timers fired", scheduling("timers-fired"), driven=False),
    Row(
        "call_soon_threadsafe",
        scheduling("call_soon_threadsafe", threads=True),
        driven=False,
        goal=1.4,
        against=UVLOOP,
    ),
    Row("spawn", spawn, driven=False, goal=6.0, against=UVLOOP, limit=True),
    Row("start-up", start_up, unit="ms", less=True, driven=False),
    Row("10,000 idle connections, each", idle, unit="B", less=True, driven=False),
)
