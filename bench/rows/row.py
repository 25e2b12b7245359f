"""A row of the benchmark table, and the helpers its measurements share.

A row of noria.compare.loops, whose measurements start a new server each.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from harness import BENCH, LIMIT, Unavailable, build_limit, serving_command

from noria.compare.loops import row as loop_row
from noria.compare.loops.peers.load import end_connections
from noria.compare.loops.row import Place, Sample, one_shot

__all__ = ["Place", "Row", "Sample", "one_shot"]

PYTHON_PEERS = BENCH / "peers"

# Values of Row.against other than the name of another row.
UVLOOP = "uvloop"
BEST = "best"

# Web servers with an event loop of their own; only rows that list them measure them.
GRANIAN = "granian"
SERVERS = (GRANIAN,)

SETTLE = 0.1  # seconds for the server to process their end


@dataclass(frozen=True, slots=True)
class Row(loop_row.Row):
    """A row with noria's goal: a ratio to uvloop, to the best peer, or to noria in another row."""

    goal: float = 1.0
    against: str = BEST
    limit: bool = False  # also measure the C server
    own: bool = False  # only noria supports it
    servers: tuple[str, ...] = ()  # servers with their own event loop to measure too

    def applies_to(self, loop: str) -> bool:
        """Return whether the loop has this row."""
        if loop == LIMIT:
            return self.limit
        if loop in SERVERS:
            return loop in self.servers
        return loop.partition("-")[0] == "noria" or not self.own


def server_command(loop: str, kind: str, *words: str) -> list[str]:
    """Return the command that starts a server on the loop; the C server has one kind only."""
    if loop == LIMIT:
        return [str(build_limit())]
    return [sys.executable, str(PYTHON_PEERS / "loop_server.py"), loop, kind, *words]


@contextlib.contextmanager
def serving(words: list[str], at: Place, unix: str | None = None) -> Iterator[tuple[int, int]]:
    """Start a server and end a few connections to it before the measurement."""
    with serving_command(words, at.server) as (pid, port):
        if not at.fresh:
            family = socket.AF_UNIX if unix else socket.AF_INET
            end_connections(unix or ("127.0.0.1", port), family)
            time.sleep(SETTLE)
        yield pid, port


def run_and_parse(
    words: list[str], seconds: float, cores: set[int], environment: dict[str, str] | None = None
) -> list[float]:
    """Run a program and return the numbers it prints; raises Unavailable with its error output."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=seconds,
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(str(error)) from None
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return [float(word) for word in done.stdout.split()]
