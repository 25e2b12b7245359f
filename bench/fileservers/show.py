"""The table of bench/fileserver.py: values, noria's ratios to other servers, and its goals."""

from __future__ import annotations

from collections.abc import Sequence

from harness import median, shown, table
from rows.show import figure, print_notes, spread
from rows.verdict import Found, compared, is_noria, measurements

from fileservers.rows import FileRow, Goal


def goals(found: Found) -> Sequence[Goal]:
    """Return the goals of the row."""
    return found.row.goals if isinstance(found.row, FileRow) else ()


def words(found: Found, goal: Goal) -> str:
    """Format a goal."""
    if goal.beside:
        return f"≥ {goal.amount:g} {goal.beside}"
    return f"{'≤' if found.row.less else '≥'} {goal.amount:g} {found.row.unit}"


def met(found: Found, goal: Goal, noria: str) -> bool | None:
    """Return whether a goal is met; None if it was not measured."""
    if goal.beside:
        ratio = compared(found.row, found.values(noria), found.values(goal.beside))
        return None if ratio is None else ratio.median >= goal.amount
    middle = found.middle(noria)
    if middle is None:
        return None
    return middle <= goal.amount if found.row.less else middle >= goal.amount


def cell(found: Found, server: str) -> str:
    """Format a server's value, marked if the server was not the limit."""
    if server not in found.samples:
        return "none" if server in found.unavailable else "–"
    mark = "!" if server in found.not_busy() else ""
    return figure(found.middle(server), found.row.unit) + mark


def processor_time(found: Found) -> dict[str, float]:
    """Return µs of CPU time per request for each server, in rows that count requests."""
    if found.row.unit != "/s":
        return {}
    each = {
        server: median([s.busy / s.value * 1e6 for s in samples.values() if s.busy and s.value])
        for server, samples in found.samples.items()
    }
    return {server: cost for server, cost in each.items() if cost is not None}


def print_table(every: dict[str, Found], servers: list[str], noria: str | None) -> None:
    """Print the values and the ratios within rounds."""
    every = {name: found for name, found in every.items() if found.samples or found.unavailable}
    others = [server for server in servers if not is_noria(server)] if noria else []
    columns = ["", *servers, *(f"{noria}/{other}" for other in others)]
    columns += ["goal", "met"] if noria else []
    lines = []
    for name, found in every.items():
        line = [name, *(cell(found, server) for server in servers)]
        for other in others:
            mine, theirs = found.values(noria or ""), found.values(other)
            line.append(spread(compared(found.row, mine, theirs)))
        if noria:
            line.append(", ".join(words(found, goal) for goal in goals(found)))
            answers = [met(found, goal, noria) for goal in goals(found)]
            line.append(", ".join({True: "yes", False: "no", None: "–"}[one] for one in answers))
        lines.append(line)
    table("file servers; noria is better where a ratio is above 1", columns, lines)
    print_notes(every)
    for name, found in every.items():
        shares = {server: found.last(server) for server in found.samples}
        if costs := processor_time(found):
            text = ", ".join(f"{server} {cost:.1f} µs" for server, cost in costs.items())
            print(f"{name}: CPU time of the server per request: {text}")
        if any(share is not None for share in shares.values()):
            text = ", ".join(f"{server} {shown(share, '.0%')}" for server, share in shares.items())
            print(f"{name}: share of the time between the last byte sent and the response: {text}")


def as_json(every: dict[str, Found], noria: str | None) -> list[dict[str, object]]:
    """Return every measurement and the goals' results as JSON values."""
    return [
        {
            "row": name,
            "unit": found.row.unit,
            "lower_is_better": found.row.less,
            "servers": measurements(found),
            "none": found.unavailable,
            "goals": [
                {"goal": words(found, goal), "met": met(found, goal, noria or "")}
                for goal in goals(found)
            ],
        }
        for name, found in every.items()
    ]
