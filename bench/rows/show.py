"""The table of bench/loop.py and the notes below it."""

from __future__ import annotations

import math

from harness import LIMIT, shown, table

from rows.row import BEST, UVLOOP, Row
from rows.verdict import (
    DISTURBED,
    Found,
    PairedRatio,
    Verdict,
    base,
    compared,
    geometric_mean,
    is_noria,
)


def figure(value: float | None, unit: str) -> str:
    """Format a value with its unit, in three or four digits."""
    if value is None:
        return "–"
    if unit != "/s":
        return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    if value >= 1e6:
        return f"{value / 1e6:.2f}M/s"
    return f"{value / 1e3:.1f}k/s" if value >= 1000 else f"{value:.0f}/s"


def spread(ratio: PairedRatio | None) -> str:
    """Format a ratio with its confidence interval, if there are enough rounds for one."""
    if ratio is None:
        return "–"
    if math.isinf(ratio.high):
        return f"{ratio.median:.2f}"
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def goal(row: Row) -> str:
    """A goal in words."""
    beside = {UVLOOP: "uvloop", BEST: "best"}.get(row.against, "asyncio's streams")
    return f"{row.goal:g} {beside}"


def cell(found: Found, loop: str, beside: str | None) -> str:
    """Format a loop's value relative to the base, with "!" if the load generator was the limit."""
    if loop not in found.samples:
        return "none" if loop in found.unavailable else "–"
    if beside is None:
        return figure(found.middle(loop), found.row.unit)
    ratio = compared(found.row, found.values(loop), found.values(beside))
    return shown(ratio.median if ratio else None, ".2f") + ("!" if loop in found.not_busy() else "")


def print_table(every: dict[str, Found], loops: list[str], noria: str | None) -> None:
    """Print ratios to uvloop in the same round, or to the named base loop."""
    columns = ["", "base", *loops]
    columns += ["noria/uvloop", "noria/best", "", "goal", "met"] if noria else []
    lines: list[list[str]] = []
    verdicts: list[Verdict] = []
    for name, found in every.items():
        if not found.samples and not found.unavailable:
            continue
        beside = base(found)
        line = [name, "–"]
        if beside:
            amount = figure(found.middle(beside), found.row.unit)
            line[1] = amount if beside == UVLOOP else f"{beside} {amount}"
        line += [cell(found, loop, beside) for loop in loops]
        if noria:
            verdict = Verdict.of(noria, found, every)
            verdicts.append(verdict)
            assert isinstance(found.row, Row)
            met = {True: "yes", False: "no", None: ""}[verdict.met(found.row)]
            ahead = verdict.best if verdict.to_best else ""
            line += [spread(verdict.to_uvloop), spread(verdict.to_best), ahead or ""]
            if found.row.own and verdict.to_goal:
                line[-1] = f"streams {spread(verdict.to_goal)}"
            line += [goal(found.row), met]
        lines.append(line)
    last = ["geometric mean", ""]
    for loop in loops:
        ratios = [
            compared(found.row, found.values(loop), found.values(UVLOOP))
            for found in every.values()
        ]
        last.append(shown(geometric_mean(ratios), ".2f"))
    if noria:
        last += [
            shown(geometric_mean([v.to_uvloop for v in verdicts]), ".2f"),
            shown(geometric_mean([v.to_best for v in verdicts]), ".2f"),
            *("", "", f"{sum(v.met(f.row) is True for v, f in measured(every, verdicts))}"),
        ]
    lines.append(last)
    table("ratio to uvloop in the same round, higher is better", columns, lines)
    print_notes(every)


def measured(every: dict[str, Found], verdicts: list[Verdict]) -> list[tuple[Verdict, Found]]:
    """Return the verdicts paired with their rows."""
    shown_rows = [found for found in every.values() if found.samples or found.unavailable]
    return list(zip(verdicts, shown_rows, strict=True))


def print_notes(every: dict[str, Found]) -> None:
    """Print where the server was not the limit, and why a loop was skipped."""
    for name, found in every.items():
        causes: dict[str, list[str]] = {}
        for loop, share in found.not_busy().items():
            disturbed = found.disturbed(loop) > DISTURBED
            why = (
                "other processes used the core" if disturbed else "the load generator was the limit"
            )
            causes.setdefault(why, []).append(f"{loop} {share:.0%}")
        for why, shares in causes.items():
            print(f"! {name}: busy {', '.join(shares)} of the time: {why}")
    for name, found in every.items():
        reasons: dict[str, list[str]] = {}
        for loop, why in found.unavailable.items():
            if not (getattr(found.row, "own", False) and not is_noria(loop)):
                reasons.setdefault(why, []).append(loop)
        for why, loops in reasons.items():
            print(f"none: {name}: {', '.join(loops)}: {why}")


def columns_of(loops: list[str], every: dict[str, Found]) -> list[str]:
    """Return the loops to show; the C server comes last, if it has a value."""
    limit = any(LIMIT in found.samples for found in every.values())
    return [loop for loop in loops if loop != LIMIT] + ([LIMIT] if limit else [])
