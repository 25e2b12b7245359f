"""Durations and sizes of a quick run and of a full run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The settings of one comparison. Times are in seconds unless the name has another unit."""

    rounds: int
    """Number of interleaved rounds; medians are reported."""

    seconds: float
    """Of one throughput measurement in one round."""

    warmup: float
    budget: float
    """Of the whole run; what is not measured by then is skipped, with a note."""

    connections: tuple[int, ...] = (1, 10, 100, 1000)
    size: int = 1024
    processes: int = 2
    """Servers of each model that take turns by rounds."""

    again: int = 1
    """Number of models of which a second server is measured, for the noise of the machine."""

    unserved_rounds: int = 1
    """Rounds in which a model that serves one connection at a time is measured with several. The
    load generator waits long for answers that do not come."""

    samples: int = 3
    """Messages per model and round of the two phases."""

    sample_size: int = 32 * 1024
    """Large enough for a visible copy, small enough to arrive in one piece: a segment of the
    loopback interface and a connection's first window are a little less than 64 KiB."""

    pause_ms: float = 3.0

    clients: int = 10
    hold_ms: float = 20.0

    idle: tuple[int, ...] = (0, 10, 100, 1000, 10_000)
    idle_seconds: float = 0.2
    idle_batch: int = 500
    """Idle connections to open before waiting until the server has accepted them."""

    idle_timeout: float = 2.0
    """For the server to accept the idle connections of one row."""

    polls: int = 5
    """Polls of each trigger with the same unread data."""


QUICK = Settings(
    rounds=7,
    seconds=0.08,
    warmup=0.01,
    budget=52.0,
    connections=(1, 100, 1000),
    samples=2,
    idle=(0, 100, 1000),
    idle_seconds=0.05,
)
FULL = Settings(
    rounds=9,
    seconds=0.4,
    warmup=0.1,
    budget=560.0,
    processes=3,
    again=2,
    unserved_rounds=9,
    pause_ms=10.0,
    idle_seconds=0.2,
    idle_timeout=12.0,
)
