"""Prints a comparison of loops: a table for each group of rows, and what can be said about them."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from noria.compare.loops.claims import BUSY_NOTE
from noria.compare.loops.found import BUSY
from noria.compare.report.document import number

WIDE = 100
"""Columns from which on the spread of the rounds is shown."""

HEADING_WIDTH = 13
"""Of a row's name; a longer one is divided."""

UNLIMITED_WIDTH = 10_000
"""Columns with which the width of a table is measured."""

Row = dict[str, Any]


def print_all(results: dict[str, Any], console: Console) -> None:
    """Print the tables, the sentences, the notes."""
    base = base_of(results)
    wide = console.width >= WIDE
    spread = ", ± half of the rounds' range" if wide else ""
    groups: dict[str, list[Row]] = {}
    for each in results.get("measurements") or ():
        if rows_of(results, each):
            groups.setdefault(str(each.get("group") or "all rows"), []).append(each)
    for name, shown in groups.items():
        title = f"{name.capitalize()}: medians{spread}, and how many times better than {base}"
        console.print(Text(title, style="bold"))
        for table in _tables(results, shown, base, wide, console):
            console.print(table)
        for each in shown:
            said = Text(f"{each['row']}: ", style="bold")
            said.append(str(each.get("sentence") or ""), style="not bold italic")
            console.print(said)
        console.print()
    for line in [*unavailable(results), *notes(results)]:
        console.print(Text(line, style="dim"))
    noise = results.get("noise")
    if isinstance(noise, dict) and noise.get("warning"):
        console.print(Text(f"Warning: {noise['warning']}.", style="yellow"))


def rows_of(results: dict[str, Any], measurement: Row) -> list[Row]:
    """The results of one row, one per loop, in the document's order."""
    found = results.get("rows") or ()
    return [row for row in found if row.get("row") == measurement.get("row")]


def base_of(results: dict[str, Any]) -> str:
    """The loop that ratios are relative to: asyncio, else the first one."""
    loops = [str(row.get("loop")) for row in results.get("rows") or ()]
    return "asyncio" if "asyncio" in loops else next(iter(loops), "")


def unavailable(results: dict[str, Any]) -> list[str]:
    """Why loops cannot be measured here: a line each, with the command that installs it."""
    lines = []
    for loop in results.get("loops") or ():
        if not loop.get("available", True):
            how = f": {loop['install']}" if loop.get("install") else ""
            lines.append(f"{loop['name']}: {loop.get('reason') or 'not available'}{how}")
    return lines


def notes(results: dict[str, Any]) -> list[str]:
    """Why values are missing, or mean little: a line for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in results.get("rows") or ():
        note, who = str(row.get("note") or ""), str(row.get("loop"))
        if note.startswith(BUSY_NOTE):
            who += f" {number(row, 'busy') or 0.0:.0%}"
            note = f"busy less than {BUSY:.0%} of the time, as {note.partition(': ')[2]}"
        if note:
            reasons.setdefault((str(row["row"]), note), []).append(who)
    rows: dict[tuple[str, str], list[str]] = {}
    for (name, why), names in reasons.items():
        rows.setdefault((", ".join(names), why), []).append(name)
    every = len(results.get("measurements") or ())
    return [
        f"{'every row' if len(names) == every > 1 else ', '.join(names)}: {who}: {why}"
        for (who, why), names in rows.items()
    ]


def _tables(
    results: dict[str, Any], shown: list[Row], base: str, wide: bool, console: Console
) -> Iterator[Table]:
    """A table of the rows; several, with fewer rows each, if one would be too wide."""
    unlimited = console.options.update(width=UNLIMITED_WIDTH)
    while shown:
        count = len(shown)
        table = _table(results, shown, base, wide)
        while count > 1 and Measurement.get(console, unlimited, table).maximum > console.width:
            count -= 1
            table = _table(results, shown[:count], base, wide)
        yield table
        shown = shown[count:]


def _table(results: dict[str, Any], shown: list[Row], base: str, wide: bool) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    drawn.add_column("", no_wrap=True)
    two_lines = any(len(str(each["row"])) > HEADING_WIDTH for each in shown)
    found: dict[tuple[str, str], Row] = {}
    first: set[tuple[str, str]] = set()
    for each in shown:
        drawn.add_column(_heading(each, two_lines), justify="right", no_wrap=True)
        for row in rows_of(results, each):
            found[str(row["loop"]), str(row["row"])] = row
        first |= {(str(loop), str(each["row"])) for loop in each.get("first") or ()}
    for loop in dict.fromkeys(loop for loop, _ in found):
        cells = [Text(loop)]
        for each in shown:
            at = loop, str(each["row"])
            text = _cell(found.get(at), found.get((base, at[1])), each, wide)
            cells.append(Text(text, style="bold green" if at in first else ""))
        drawn.add_row(*cells)
    return drawn


def _heading(measurement: Row, two_lines: bool) -> str:
    """The row's name, on two lines if it is long, and its unit."""
    name, unit = str(measurement["row"]), str(measurement.get("unit") or "")
    if len(name) > HEADING_WIDTH:
        at = max(name.rfind(mark, 0, HEADING_WIDTH) for mark in "-_") + 1 or HEADING_WIDTH
        name = f"{name[:at]}\n{name[at:]}"
    elif two_lines:
        name = f"\n{name}"
    return f"{name}\n{ {'/s': 'per second', '/CPU s': 'per CPU second'}.get(unit, unit) }"


def _cell(row: Row | None, base: Row | None, measurement: Row, wide: bool) -> str:
    value = number(row, "value") if row else None
    if row is None or value is None:
        return "–"
    words = [figure(value)]
    if wide:
        words.append(f"±{half_range(row):.0%}")
    ratio = gain(row, base, measurement)
    words.append(f"{ratio:.2f}×" if ratio is not None else "")
    return " ".join(filter(None, words))


def figure(value: float) -> str:
    """A value in three digits: 1.23M, 45.6k, 789."""
    if value >= 999_500:
        return f"{value / 1e6:.3g}M" if value < 999.5e6 else f"{value / 1e9:.3g}G"
    return f"{value / 1e3:.3g}k" if value >= 999.5 else f"{value:.3g}"


def half_range(row: Row) -> float:
    """Half of the range of the rounds, as a share of the median."""
    value = number(row, "value")
    low, high = (number(row.get(end) or {}, "value") for end in ("lowest", "highest"))
    return (high - low) / 2 / value if value and low is not None and high is not None else 0.0


def gain(row: Row, base: Row | None, measurement: Row) -> float | None:
    """How many times better a loop is than the base: the median of the rounds' ratios."""
    mine, its = ((each or {}).get("rounds", {}).get("value") or () for each in (row, base))
    ratios = [one / other for one, other in zip(mine, its, strict=False) if one and other]
    if not ratios:
        return None
    found = float(median(ratios))
    return 1 / found if measurement.get("lower_is_better") else found
