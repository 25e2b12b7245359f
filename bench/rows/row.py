"""What a row of the table is, and what it measures with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness import BENCH, LIMIT, Unable, build_limit

PYTHON_PEERS = BENCH / "peers"

# What a row's goal is relative to, beside another row by name.
UVLOOP = "uvloop"
BEST = "best"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the figure, and what the process did with its core meanwhile."""

    value: float
    busy: float | None = None  # the share of the time that it ran
    waiting: float | None = None  # the share that it could have, had others not had the core
    load_waiting: float | None = None  # the same of the load


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how long a row measures."""

    server: int  # the core of what is measured
    load: int  # the core of what drives it
    seconds: float
    scratch: Path  # a directory for sockets and certificates, gone afterwards


Measure = Callable[[str, Place], Sample]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that loops are compared by.

    `measure` takes the name of a loop and raises Unable where the loop cannot. A goal is a ratio to
    uvloop, to the best peer, or to what noria itself reaches in another row.
    """

    name: str
    measure: Measure = field(repr=False)
    goal: float = 1.0
    against: str = BEST
    unit: str = "/s"
    less: bool = False  # the lower figure is the better one
    limit: bool = False  # the C server has this row too
    driven: bool = True  # by a load, which must not be the limit
    own: bool = False  # noria alone has it

    def gain(self, mine: float, other: float) -> float:
        """How many times better one figure is than another."""
        return other / mine if self.less else mine / other


def server_command(loop: str, kind: str, *words: str) -> list[str]:
    """How a server on that loop is started; the limit has but one kind."""
    if loop == LIMIT:
        return [str(build_limit())]
    return [sys.executable, str(PYTHON_PEERS / "loop_server.py"), loop, kind, *words]


def answer(words: list[str], seconds: float, cores: set[int]) -> list[float]:
    """What a program prints: numbers. Raises Unable with what it says if it fails."""
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=partial(os.sched_setaffinity, 0, cores),
    )
    if done.returncode:
        raise Unable((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return [float(word) for word in done.stdout.split()]
