"""Tables of the rounds: median, lowest and highest of every number that a figure draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median, median_low
from typing import Any

from noria.compare.report import document
from noria.compare.report.document import Row, number
from noria.compare.report.tables import Column, Table, Value

MEASURED: dict[str, tuple[str, list[dict[str, str]]]] = {
    "throughput": (
        "connections",
        [
            {
                "messages_per_second": "messages/s",
                "p50_us": "p50 µs",
                "p99_us": "p99 µs",
                "p999_us": "p99.9 µs",
            },
            {
                "cpu_us": "CPU µs",
                "user_us": "user µs",
                "kernel_us": "kernel µs",
                "syscalls_per_message": "syscalls",
                "empty_asks_per_message": "empty polls",
            },
        ],
    ),
    "waiting": ("client", [{"first_answer_ms": "first answer ms"}]),
    "idle": ("idle", [{"us_per_message": "time µs", "cpu_us_per_message": "CPU time µs"}]),
}
"""By figure: the column that identifies a row of a model, and for each table the headings of its
numbers."""


def of_figure(results: dict[str, Any], figure: str) -> list[Table]:
    """The tables of a figure's rounds; none if there was only one round."""
    if figure == "phases":
        return _samples(results)
    if figure not in MEASURED:
        return []
    place, tables = MEASURED[figure]
    keys = [place, "model"] if figure == "throughput" else ["model", place]
    return [
        made
        for columns in tables
        if (made := table(_repeated(document.rows(results, figure), columns), keys, columns))
    ]


def _repeated(found: Iterable[Row], columns: Iterable[str]) -> list[Row]:
    """The rows with several rounds."""
    return [row for row in found if rounds_of(row, columns) > 1]


def table(
    found: Sequence[Row], keys: Sequence[str], columns: dict[str, str], of: str = "rounds"
) -> Table | None:
    """A table of rows with rounds, in groups of equal first key; None if there are none."""
    groups: dict[Any, list[list[Value]]] = {}
    for row in found:
        groups.setdefault(row.get(keys[0]), []).append(
            [
                *(_key(row.get(key)) for key in keys),
                rounds_of(row, columns),
                *(_cell(row, column) for column in columns),
            ]
        )
    if not groups:
        return None
    return Table(
        f"Median (lowest to highest) of the {of}",
        [
            *(Column(key) for key in keys),
            Column(of, "{:.0f}".format),
            *(Column(label) for label in columns.values()),
        ],
        list(groups.values()),
    )


def rounds_of(row: Row, columns: Iterable[str]) -> int:
    """Number of rounds that measured the row."""
    rounds = row.get("rounds")
    if not isinstance(rounds, dict):
        return 0
    return max(
        (sum(each is not None for each in rounds.get(column) or ()) for column in columns),
        default=0,
    )


def _samples(results: dict[str, Any]) -> list[Table]:
    """The time from send to handler in microseconds: of the rounds' medians, or of the samples."""
    found = [row for row in document.rows(results, "phases") if number(row, "handler") is not None]
    times: dict[str, list[float | None]] = document.handler_rounds(results)
    several = any(len(each) > 1 for each in times.values())
    if not several:
        times = {
            name: [
                (number(row, "handler") or 0.0) - (number(row, "sent") or 0.0)
                for row in found
                if row["model"] == name
            ]
            for name in times
        }
    rows: list[Row] = []
    for name, nanoseconds in times.items():
        values = [time / 1000 for time in nanoseconds if time is not None]
        rows.append(
            {
                "model": name,
                "us": median(values) if several else median_low(values),
                "rounds": {"us": values},
                "lowest": {"us": min(values)},
                "highest": {"us": max(values)},
            }
        )
    columns = {"us": "send to handler µs"}
    made = table(_repeated(rows, columns), ["model"], columns, "rounds" if several else "samples")
    if made is None:
        return []
    made.groups = [[row for group in made.groups for row in group]]
    return [made]


def _key(value: Any) -> Value:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(row: Row, column: str) -> Value:
    """A number with its spread: 12.3 (11.9 to 12.8)."""
    middle = number(row, column)
    if middle is None:
        return None
    lowest, highest = (number(row.get(end) or {}, column) for end in ("lowest", "highest"))
    write = _writer(middle)
    if lowest is None or highest is None:
        return write(middle)
    return f"{write(middle)} ({write(lowest)} to {write(highest)})"


def _writer(value: float) -> Callable[[float], str]:
    """A format with three digits or more, by the size of the median."""
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{{:,.{digits}f}}".format
