"""The options of ``noria work``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkOptions:
    """`concurrency`: None for that of the bus. `grace` is in seconds. `metrics`: their URL."""

    target: str
    workers: int
    concurrency: int | None
    grace: float
    model: str
    verbose: bool
    metrics: str | None = None
