"""Tables of functions: handlers of the loop, timers, jobs of executors."""

from __future__ import annotations

from noria.sight.top import units
from noria.sight.top.cells import busy_cell, duration_cell, number_cell
from noria.sight.top.rates import CodeRates, code_key
from noria.sight.top.tables import BAD, DIM, PLAIN, WARN, Cell, Column, Table

LONGEST_BAD = 100_000_000  # ns; Observation.max_block's default
LONGEST_WARN = 10_000_000


def item_key(item: CodeRates) -> tuple[int, str]:
    """Return what identifies a row."""
    return code_key(item.code)


def _function(item: CodeRates) -> Cell:
    return units.clean(item.code.place.function) or f"({item.code.kind})", PLAIN


def _longest(item: CodeRates) -> Cell:
    longest = item.code.longest
    style = BAD if longest >= LONGEST_BAD else WARN if longest >= LONGEST_WARN else PLAIN
    return duration_cell(longest, style)


def _text(item: CodeRates) -> str:
    return f"{item.code.place} {item.code.kind}"


def code_table(title: str, *, alarming: bool = True, kinds: bool = True) -> Table[CodeRates]:
    """Return a table, sorted by the time used in the last interval.

    *alarming*: long calls are coloured: they block the loop. *kinds*: with a column of kinds.
    """
    columns: list[Column[CodeRates]] = [
        Column(
            "function",
            title,
            16,
            _function,
            lambda item: item.code.place.function,
            flexible=2,
            right=False,
            explanation="qualified name",
        ),
        Column(
            "kind",
            "kind",
            8,
            lambda item: (item.code.kind, DIM),
            lambda item: item.code.kind,
            priority=5,
            right=False,
            explanation="callback, task, protocol or timer",
        ),
        Column(
            "calls/s",
            "calls/s",
            7,
            lambda item: number_cell(item.calls),
            lambda item: item.calls,
            priority=2,
            explanation="calls or steps each second",
        ),
        Column(
            "busy%",
            "busy%",
            6,
            lambda item: busy_cell(item.busy) if alarming else (units.share(item.busy), PLAIN),
            lambda item: item.busy,
            explanation="share of the last interval",
        ),
        Column(
            "mean",
            "mean",
            6,
            lambda item: duration_cell(item.mean),
            lambda item: item.mean,
            priority=4,
            explanation="mean duration in the last interval",
        ),
        Column(
            "longest",
            "longest",
            7,
            _longest if alarming else lambda item: duration_cell(item.code.longest),
            lambda item: item.code.longest,
            priority=2,
            explanation="the longest call so far",
        ),
        Column(
            "calls",
            "calls",
            7,
            lambda item: (units.number(item.code.calls), PLAIN),
            lambda item: item.code.calls,
            priority=7,
            explanation="calls so far",
        ),
        Column(
            "busy",
            "busy",
            6,
            lambda item: duration_cell(item.code.busy),
            lambda item: item.code.busy,
            priority=6,
            explanation="time so far",
        ),
        Column(
            "place",
            "place",
            14,
            lambda item: (units.file_line(item.code.place), DIM),
            lambda item: units.file_line(item.code.place),
            priority=3,
            flexible=1,
            right=False,
            explanation="file and line of the function",
        ),
    ]
    if not kinds:
        columns = [column for column in columns if column.key != "kind"]
    return Table(columns, "busy%", _text)
