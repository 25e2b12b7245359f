"""Level and edge: how many polls report the same unread data."""

from __future__ import annotations

import selectors
import socket

import noria
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import Experiment, Row
from noria.errors import NoriaError
from noria.selectors import SELECTORS

POLL_TIMEOUT_SECONDS = 0.02
"""Per poll; a level-triggered model reports at once."""


def steps(experiment: Experiment, models: list[str]) -> int:
    """Number of progress steps: one round, because the counts are the same each time."""
    return len(models)


def measure(experiment: Experiment, models: list[str]) -> list[Row]:
    """Return one row per model with readiness.

    `told`: number of polls that reported the unread data, of `asks` polls. `told_of_more`: 1 if a
    poll reported more data that arrived later.
    """
    return [row for model in models for row in _rows(experiment, model)]


def _rows(experiment: Experiment, model: str) -> list[Row]:
    row: Row = {
        "model": model,
        "trigger": noria.info(model).trigger,
        "unread_bytes": experiment.settings.size,
        "asks": experiment.settings.polls,
        "told": None,
        "told_of_more": None,
        "note": "",
    }
    try:
        experiment.step(f"level and edge: {model}")
        if model not in SELECTORS:
            return []
        if not noria.info(model).synchronous:
            # Receives of io_uring complete; as a selector it polls, and re-arms after each event.
            row["trigger"] = "level"
        row["told"], row["told_of_more"] = _count_reports(
            model, experiment.settings.size, experiment.settings.polls
        )
    except (ChildFailed, NoriaError, OSError) as error:
        row["note"] = str(error)
    return [row]


def _count_reports(model: str, size: int, polls: int) -> tuple[int, int]:
    near, far = socket.socketpair()
    with near, far, noria.selector(model) as selector:
        near.setblocking(False)
        selector.register(near, selectors.EVENT_READ)
        far.sendall(bytes(size))
        reports = sum(bool(selector.select(POLL_TIMEOUT_SECONDS)) for _ in range(polls))
        far.sendall(bytes(1))
        return reports, int(bool(selector.select(POLL_TIMEOUT_SECONDS)))
