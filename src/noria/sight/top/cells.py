"""Cells of the tables: figures that are blank at 0, and shares of the loop's time."""

from __future__ import annotations

from noria.sight.top import units
from noria.sight.top.tables import BAD, PLAIN, WARN, Cell

BUSY_WARN, BUSY_BAD = 0.25, 0.75  # shares of the interval


def duration_cell(ns: float, style: str = PLAIN) -> Cell:
    """Return a duration; blank for 0."""
    return (units.duration(ns) if ns else ""), style


def size_cell(count: float, style: str = PLAIN) -> Cell:
    """Return a number of bytes; blank for 0."""
    return (units.size(count) if count else ""), style


def number_cell(count: float) -> Cell:
    """Return a count or a rate; blank for 0."""
    return (units.number(count) if count else ""), PLAIN


def busy_cell(share: float) -> Cell:
    """Return which share of the loop's time something used."""
    style = BAD if share >= BUSY_BAD else WARN if share >= BUSY_WARN else PLAIN
    return units.share(share), style
