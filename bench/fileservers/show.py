"""The table of bench/fileserver.py: figures, noria's ratios to the others, and its goals."""

from __future__ import annotations

from collections.abc import Sequence

from harness import median, shown, table
from rows.show import figure, print_notes, spread
from rows.verdict import Found, Ratio, is_noria, measurements

from fileservers.rows import FileRow, Goal


def goals(found: Found) -> Sequence[Goal]:
    """Those of the row."""
    return found.row.goals if isinstance(found.row, FileRow) else ()


def words(found: Found, goal: Goal) -> str:
    """A goal as it is written."""
    if goal.beside:
        return f"≥ {goal.amount:g} {goal.beside}"
    return f"{'≤' if found.row.less else '≥'} {goal.amount:g} {found.row.unit}"


def met(found: Found, goal: Goal, noria: str) -> bool | None:
    """Whether it is reached; None if that was not measured."""
    if goal.beside:
        ratio = Ratio.of(found.row, found.values(noria), found.values(goal.beside))
        return None if ratio is None else ratio.middle >= goal.amount
    middle = found.middle(noria)
    if middle is None:
        return None
    return middle <= goal.amount if found.row.less else middle >= goal.amount


def cell(found: Found, server: str) -> str:
    """A server's figure, with the mark of one that was not the limit."""
    if server not in found.samples:
        return "none" if server in found.none else "–"
    mark = "!" if server in found.not_busy() else ""
    return figure(found.middle(server), found.row.unit) + mark


def processor_time(found: Found) -> dict[str, float]:
    """µs of each server's processor time for one request; of rows that count requests."""
    if found.row.unit != "/s":
        return {}
    each = {
        server: median([s.busy / s.value * 1e6 for s in samples.values() if s.busy and s.value])
        for server, samples in found.samples.items()
    }
    return {server: cost for server, cost in each.items() if cost is not None}


def print_table(every: dict[str, Found], servers: list[str], noria: str | None) -> None:
    """What was measured; the ratios are those within a round."""
    every = {name: found for name, found in every.items() if found.samples or found.none}
    others = [server for server in servers if not is_noria(server)] if noria else []
    columns = ["", *servers, *(f"{noria}/{other}" for other in others)]
    columns += ["goal", "met"] if noria else []
    lines = []
    for name, found in every.items():
        line = [name, *(cell(found, server) for server in servers)]
        for other in others:
            mine, theirs = found.values(noria or ""), found.values(other)
            line.append(spread(Ratio.of(found.row, mine, theirs)))
        if noria:
            line.append(", ".join(words(found, goal) for goal in goals(found)))
            answers = [met(found, goal, noria) for goal in goals(found)]
            line.append(", ".join({True: "yes", False: "no", None: "–"}[one] for one in answers))
        lines.append(line)
    table("file servers; a ratio above 1 is noria's gain", columns, lines)
    print_notes(every)
    for name, found in every.items():
        shares = {server: found.last(server) for server in found.samples}
        if costs := processor_time(found):
            said = ", ".join(f"{server} {cost:.1f} µs" for server, cost in costs.items())
            print(f"{name}: a request takes {said} of the server's processor time")
        if any(share is not None for share in shares.values()):
            said = ", ".join(f"{server} {shown(share, '.0%')}" for server, share in shares.items())
            print(f"{name}: the time from the last byte sent to the answer is {said} of all")


def as_json(every: dict[str, Found], noria: str | None) -> list[dict[str, object]]:
    """Every measurement, and what became of the goals."""
    return [
        {
            "row": name,
            "unit": found.row.unit,
            "lower_is_better": found.row.less,
            "servers": measurements(found),
            "none": found.none,
            "goals": [
                {"goal": words(found, goal), "met": met(found, goal, noria or "")}
                for goal in goals(found)
            ],
        }
        for name, found in every.items()
    ]
