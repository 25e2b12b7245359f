"""The same unread data, and how often each trigger tells of it."""

from __future__ import annotations

import selectors
import socket

import noria
from noria.compare.measure.bench import Bench, Row
from noria.compare.measure.child import ChildFailed
from noria.errors import NoriaError
from noria.selectors import SELECTORS

KEYS = ("model",)
TIMEOUT = 0.02
"""Seconds that a trigger has for telling; a level tells at once."""


def steps(bench: Bench) -> int:
    """How many steps one model has."""
    return 1


def measure(bench: Bench, model: str) -> list[Row]:
    """One row, or none for a model that tells of no readiness.

    `told`: of so many asks while the data lay unread; `told_of_more`: of one ask after more came.
    """
    row: Row = {
        "model": model,
        "trigger": noria.info(model).trigger,
        "unread_bytes": bench.settings.size,
        "asks": bench.settings.asks,
        "told": None,
        "told_of_more": None,
        "note": "",
    }
    try:
        bench.step(f"level and edge: {model}")
        if model not in SELECTORS:
            return []
        if model == "io_uring":
            # Its receives complete; as a selector it polls, anew after each that was told.
            row["trigger"] = "level"
        row["told"], row["told_of_more"] = _tell(model, bench.settings.size, bench.settings.asks)
    except (ChildFailed, NoriaError, OSError) as error:
        row["note"] = str(error)
    return [row]


def _tell(model: str, size: int, asks: int) -> tuple[int, int]:
    near, far = socket.socketpair()
    with near, far, noria.selector(model) as selector:
        near.setblocking(False)
        selector.register(near, selectors.EVENT_READ)
        far.sendall(bytes(size))
        told = sum(bool(selector.select(TIMEOUT)) for _ in range(asks))
        far.sendall(bytes(1))
        return told, int(bool(selector.select(TIMEOUT)))
