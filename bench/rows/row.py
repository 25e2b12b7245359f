"""What a row of the table is, and what it measures with."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness import BENCH, LIMIT, Unavailable, build_limit, serving_command

PYTHON_PEERS = BENCH / "peers"

# What a row's goal is relative to, beside another row by name.
UVLOOP = "uvloop"
BEST = "best"

# Web servers that bring their event loop: peers in the rows that name them.
GRANIAN = "granian"
SERVERS = (GRANIAN,)

SEEN = 3  # connections that a server has seen end before it is measured
SETTLE = 0.1  # seconds for it to see that


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the figure, and what the process did with its core meanwhile."""

    value: float
    busy: float | None = None  # the share of the time that it ran
    waiting: float | None = None  # the share that it could have, had others not had the core
    load_waiting: float | None = None  # the same of the load
    last: float | None = None  # the share of an upload's time from its last byte to the answer


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how long a row measures."""

    server: int  # the core of what is measured
    load: int  # the core of what drives it
    seconds: float
    scratch: Path  # a directory for sockets and certificates, gone afterwards
    fresh: bool = False  # servers are measured without having seen a connection end


Measure = Callable[[str, Place], Sample]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that loops are compared by.

    `measure` takes the name of a loop and raises Unavailable if the loop cannot do it. A goal is a
    ratio to uvloop, to the best peer, or to noria itself in another row.
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
    servers: tuple[str, ...] = ()  # servers with an event loop of their own that have it, too

    def asks(self, loop: str) -> bool:
        """Whether it is worth trying."""
        if loop == LIMIT:
            return self.limit
        if loop in SERVERS:
            return loop in self.servers
        return loop.partition("-")[0] == "noria" or not self.own

    def gain(self, mine: float, other: float) -> float:
        """How many times better one figure is than another."""
        return other / mine if self.less else mine / other


def server_command(loop: str, kind: str, *words: str) -> list[str]:
    """How a server on that loop is started; the limit has but one kind."""
    if loop == LIMIT:
        return [str(build_limit())]
    return [sys.executable, str(PYTHON_PEERS / "loop_server.py"), loop, kind, *words]


@contextlib.contextmanager
def serving(words: list[str], at: Place, unix: str | None = None) -> Iterator[tuple[int, int]]:
    """Start a server, and have it see connections end before it is measured, as any soon has.

    It matters: glibc maps and unmaps each block above 128 KiB, such as a receive buffer, until one
    is freed whole, as it is at the end of a stream. Only then it keeps them. A loop that receives
    into a new buffer each time is slower by a factor before than after.
    """
    with serving_command(words, at.server) as (pid, port):
        if not at.fresh:
            for _ in range(SEEN):
                with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as client:
                    client.connect(unix or ("127.0.0.1", port))
            time.sleep(SETTLE)
        yield pid, port


def answer(
    words: list[str], seconds: float, cores: set[int], environment: dict[str, str] | None = None
) -> list[float]:
    """What a program prints: numbers. Raises Unavailable with what it says if it fails."""
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=partial(os.sched_setaffinity, 0, cores),
        env=environment,
    )
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return [float(word) for word in done.stdout.split()]
