"""Documents of `noria compare` with invented numbers: several rounds, noise and an outlier.

They have the structure of a measured document, so that the page can be drawn without measuring.
"""

from __future__ import annotations

import copy
import json
import random
import statistics
from pathlib import Path
from typing import Any

SAMPLE: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "compare_sample.json").read_text("utf-8")
)

KEYS = {
    "throughput": ("connections", "served"),
    "waiting": ("client",),
    "idle": ("idle",),
}
"""The numbers of a row that are the same in every round. Samples of the phases are not merged."""


def with_rounds(rounds: int = 5, deviation: float = 0.06, seed: int = 1) -> dict[str, Any]:
    """Return the sample document with `rounds` values of each number, and its noise."""
    chance = random.Random(seed)
    results = copy.deepcopy(SAMPLE)
    results["rounds"] = rounds
    for section, keys in KEYS.items():
        for row in results[section]["rows"]:
            add_rounds(row, keys, rounds, deviation, chance)
    results["noise"] = noise(deviation, chance)
    results["claims"] = []
    return results


def add_rounds(
    row: dict[str, Any],
    keys: tuple[str, ...],
    rounds: int,
    deviation: float,
    chance: random.Random,
) -> None:
    """Give a row the values of its rounds; its numbers become their medians."""
    row |= {"rounds": {}, "lowest": {}, "highest": {}}
    for column, value in list(row.items()):
        if column in keys or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        spread = 0.001 if column == "syscalls_per_message" else deviation
        values = [value * chance.lognormvariate(0, spread) for _ in range(rounds)]
        row[column] = statistics.median(values)
        row["rounds"][column] = values
        row["lowest"][column], row["highest"][column] = min(values), max(values)


def noise(deviation: float, chance: random.Random) -> dict[str, Any]:
    """Return the measurement of the same server against itself, at three numbers of connections."""
    pairs = []
    for connections in (1, 10, 100):
        ratio = chance.lognormvariate(0, deviation)
        low, high = ratio / (1 + deviation), ratio * (1 + deviation)
        pairs.append(
            {
                "figure": "throughput",
                "column": "messages_per_second",
                "connections": connections,
                "model": "epoll",
                "ratio": ratio,
                "low": low,
                "high": high,
            }
        )
    ratios = [pair["ratio"] for pair in pairs]
    factor = max(max(ratio, 1 / ratio) for ratio in ratios)
    noisy = factor > 1.1
    return {
        "pairs": pairs,
        "ratios": ratios,
        "same_server": factor,
        "steal_share": 0.004,
        "waited_share": 0.031,
        "other_share": 0.052,
        "noisy": noisy,
        "warning": "the machine was noisy: other processes used 5% of the cores" if noisy else "",
    }


def with_outlier(results: dict[str, Any], factor: float = 200.0) -> dict[str, Any]:
    """Return the document with the CPU time of `threaded` at 1,000 connections `factor` times."""
    for row in results["throughput"]["rows"]:
        if row["model"] == "threaded" and row["connections"] == 1000:
            for key in ("user_us", "kernel_us"):
                scale(row, key, factor)
    return results


def scale(row: dict[str, Any], key: str, factor: float) -> None:
    """Multiply one number of a row, and its rounds."""
    row[key] *= factor
    row["rounds"][key] = [value * factor for value in row["rounds"][key]]
    for end in ("lowest", "highest"):
        row[end][key] *= factor


LOOPS = {"asyncio": 1.0, "uvloop": 1.9, "rloop": 1.5, "noria-epoll": 2.1, "noria-io_uring": 2.4}
"""The speed of each loop in the document of `loops_document`, relative to asyncio."""

LOOP_ROWS = {
    "echo-protocol": ("network", "echo, Protocol", "/s", 60_000.0),
    "echo-tls": ("network", "echo, TLS", "/CPU s", 20_000.0),
    "http-uvicorn": ("network", "HTTP, uvicorn", "/s", 9_000.0),
    "call_soon": ("scheduling", "call_soon", "/s", 900_000.0),
    "timers-cancelled": ("scheduling", "timers cancelled", "/s", 700_000.0),
    "memory-idle": ("files and memory", "idle connection", "B", 1800.0),
}
"""The rows of that document: group, title, unit, and the value of asyncio."""


def loops_document(rounds: int = 7, deviation: float = 0.05, seed: int = 1) -> dict[str, Any]:
    """Return an invented document of `noria compare loops`."""
    chance = random.Random(seed)
    results = {key: SAMPLE[key] for key in ("noria", "python", "kernel", "machine", "date")}
    results |= {
        "command": "noria compare loops --quick",
        "quick": True,
        "rounds": rounds,
        "loops": [
            {"name": name, "version": "1.0", "available": True, "reason": "", "install": ""}
            for name in LOOPS
        ],
        "measurements": [
            {
                "row": row,
                "group": group,
                "title": title,
                "about": f"invented numbers of {title}",
                "unit": unit,
                "lower_is_better": unit == "B",
                "sentence": f"noria-io_uring is first in {row}.",
            }
            for row, (group, title, unit, _) in LOOP_ROWS.items()
        ],
        "rows": [],
        "noise": noise(deviation, chance),
        "claims": [],
    }
    results["loops"].append(
        {
            "name": "blazio",
            "version": "",
            "available": False,
            "reason": "not installed",
            "install": "pip install blazio",
        }
    )
    for name, (_, _, unit, value) in LOOP_ROWS.items():
        for loop, speed in LOOPS.items():
            row = {"row": name, "loop": loop, "note": ""}
            row["value"] = value / speed if unit == "B" else value * speed
            add_rounds(row, (), rounds, deviation, chance)
            results["rows"].append(row)
    return results
