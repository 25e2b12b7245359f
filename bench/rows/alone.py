"""Rows without a load generator: scheduling, timers, subprocesses, start-up, memory."""

from __future__ import annotations

import os
import statistics
import sys
import time
from functools import partial

import memory
from harness import BENCH, LIMIT, Unavailable, built

from rows.row import PYTHON_PEERS, UVLOOP, Place, Row, Sample, run_and_parse, server_command

STARTS = 11  # measured starts
IDLE = 10_000  # connections
SPAWNED = 200  # children of the C program

RUN = """
async def empty(): pass
import {package}
if hasattr({package}, "run"):
    {package}.run(empty(){model})
else:
    import asyncio
    asyncio.run(empty(), loop_factory={package}.new_event_loop)
"""


def scheduling(name: str, loop: str, at: Place) -> Sample:
    """Measure a row of peers/loop_micro.py, in operations a second."""
    # The calling thread or the spawned child may run on the other core.
    allowed = {at.server, at.load} if name in APART else {at.server}
    words = [sys.executable, str(PYTHON_PEERS / "loop_micro.py"), loop, name]
    if loop == LIMIT:
        words = [str(built(BENCH / "limit" / "spawn.c")), str(SPAWNED)]
    return Sample(*run_and_parse(words, 120, allowed))


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


def idle(loop: str, at: Place) -> Sample:
    """Measure resident bytes per idle connection, counted from the thousandth on."""
    words = server_command(loop, "protocol")
    try:
        _, each = memory.measure(words, IDLE - memory.FIRST, at.server)
    except OSError as error:
        raise Unavailable(str(error)) from None
    return Sample(each)


APART = ("call_soon_threadsafe", "spawn")
ROWS = (
    *(
        Row(
            name,
            partial(scheduling, name),
            goal,
            against,
            limit=name == "spawn",
            driven=False,
        )
        for name, goal, against in (
            ("call_soon chain", 4.5, UVLOOP),
            ("100 call_soon a turn", 1.0, "best"),
            ("sleep(0)", 2.2, UVLOOP),
            ("gather of 100", 1.0, "best"),
            ("timers cancelled", 4.5, UVLOOP),
            ("timers fired", 1.0, "best"),
            ("call_soon_threadsafe", 1.4, UVLOOP),
            ("spawn", 6.0, UVLOOP),
        )
    ),
    Row("start-up", start_up, unit="ms", less=True, driven=False),
    Row("10,000 idle connections, each", idle, unit="B", less=True, driven=False),
)
