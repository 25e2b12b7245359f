"""Durations and repetitions of a quick run and of a full run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The settings of one comparison. Times are in seconds unless the name has another unit."""

    rounds: int
    """Number of rounds; medians are reported."""

    seconds: float
    """Of one throughput measurement."""

    warmup: float
    budget: float
    """Of the whole run; what is not measured by then is skipped, with a note."""

    connections: tuple[int, ...] = (1, 10, 100, 1000)
    size: int = 1024

    samples: int = 7
    """Messages per round of the two phases."""

    sample_size: int = 32 * 1024
    """Large enough for a visible copy, small enough to arrive in one piece: a segment of the
    loopback interface and a connection's first window are a little less than 64 KiB."""

    pause_ms: float = 3.0

    clients: int = 10
    hold_ms: float = 20.0
    repeats: int = 3
    """Repetitions of the waiting clients per round."""

    idle: tuple[int, ...] = (0, 10, 100, 1000, 10_000)
    idle_seconds: float = 0.2
    idle_batch: int = 500
    """Idle connections to open before waiting until the server has accepted them."""

    idle_timeout: float = 2.0
    """For the server to accept the idle connections of one row."""

    polls: int = 5
    """Polls of each trigger with the same unread data."""


QUICK = Settings(rounds=1, seconds=0.3, warmup=0.05, budget=50.0)
FULL = Settings(
    rounds=3,
    seconds=1.5,
    warmup=0.3,
    budget=560.0,
    samples=11,
    pause_ms=10.0,
    idle_seconds=0.8,
    idle_timeout=12.0,
)
