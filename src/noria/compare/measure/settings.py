"""How long and how often everything is measured: a quick run, or a whole one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The sizes of one comparison. Times in seconds unless the name says otherwise."""

    rounds: int
    """Times that every model has its turn; what is told is the median."""

    seconds: float
    """How long one throughput is measured."""

    warmup: float
    budget: float
    """When this is over, what was not measured yet is left out, with a note."""

    connections: tuple[int, ...] = (1, 10, 100, 1000)
    size: int = 1024

    samples: int = 7
    """Messages of the two phases, in each round."""

    sample_size: int = 32 * 1024
    """Large enough for the copy to be seen, small enough to come in one piece: a segment of the
    loopback interface is 64 KiB less its headers, and the first window of a connection as much."""

    pause_ms: float = 3.0

    clients: int = 10
    hold_ms: float = 20.0
    tries: int = 3
    """Times that they come, in each round."""

    idle: tuple[int, ...] = (0, 10, 100, 1000, 10_000)
    idle_seconds: float = 0.2
    idle_batch: int = 500
    """So many idle connections are opened before the server is waited for."""

    idle_patience: float = 2.0
    """How long a server may take to accept the idle connections of one row."""

    asks: int = 5
    """How often each trigger is asked about the same unread data."""


QUICK = Settings(rounds=1, seconds=0.3, warmup=0.05, budget=50.0)
WHOLE = Settings(
    rounds=3,
    seconds=1.5,
    warmup=0.3,
    budget=560.0,
    samples=11,
    pause_ms=10.0,
    idle_seconds=0.8,
    idle_patience=12.0,
)
