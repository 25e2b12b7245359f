"""Print the table of docs/performance.md from a bench/loop.py --json file: markdown.py FILE."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from harness import LIMIT
from rows.row import UVLOOP
from rows.show import figure

NAMES = {LIMIT: "C", "noria": "**noria**", "noria-epoll": "noria epoll"}


def ratio(row: dict[str, Any], loop: str, beside: str) -> float | None:
    """Return the median over the rounds of how many times better `loop` is than `beside`."""
    loops = row["loops"]
    if loop not in loops or beside not in loops:
        return None
    base = {m["round"]: m["value"] for m in loops[beside]["measurements"]}
    each = [
        base[m["round"]] / m["value"] if row["lower_is_better"] else m["value"] / base[m["round"]]
        for m in loops[loop]["measurements"]
        if base.get(m["round"]) and m["value"]
    ]
    return statistics.median(each) if each else None


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("file", type=Path)
    found = json.loads(p.parse_args().file.read_text())
    loops = list(dict.fromkeys(loop for row in found["rows"] for loop in row["loops"]))
    loops = [loop for loop in loops if loop not in (UVLOOP, LIMIT)] + [LIMIT]
    print(line(["row", *(NAMES.get(loop, loop) for loop in loops), "uvloop", "best peer", "goal"]))
    print("|---" + "|---" * (len(loops) + 3) + "|")
    logs: dict[str, list[float]] = {loop: [] for loop in loops}
    for row in found["rows"]:
        if not row["loops"]:
            continue
        cells = [row["row"]]
        for loop in loops:
            value = ratio(row, loop, UVLOOP)
            if value:
                logs[loop].append(math.log(value))
            mark = "" if loop not in row["loops"] or row["loops"][loop]["was_the_limit"] else "!"
            cells.append(f"{value:.2f}{mark}" if value else "–")
        base = row["loops"].get(UVLOOP)
        cells.append(figure(base["median"], row["unit"]) if base else "–")
        verdict = row["noria"].get("noria", {})
        to_best = verdict.get("to_best")
        cells.append(f"{to_best['median']:.2f} {verdict['best']}" if to_best else "–")
        goal = row["goal"]
        reached = verdict.get("to_goal")
        cells.append(
            f"{goal['ratio']:g} {goal['to']}: "
            + (f"{reached['median']:.2f}{' ✓' if verdict['met'] else ''}" if reached else "–")
        )
        print(line(cells))
    means = [
        f"{math.exp(statistics.fmean(logs[loop])):.2f}" if logs[loop] else "–" for loop in loops
    ]
    print(line(["geometric mean", *means, "", "", "2 uvloop"]))


if __name__ == "__main__":
    main()
