"""Reads the document of `noria compare`, which may be incomplete.

A run can be interrupted, a model can be missing, a number can be null. These functions return an
empty list or None then, and never raise.
"""

import math
from collections.abc import Iterable
from statistics import median
from typing import Any

Row = dict[str, Any]


def section(results: dict[str, Any], name: str) -> Row:
    """The section `name` of the document, or an empty one."""
    part = results.get(name)
    return part if isinstance(part, dict) else {}


def rows(results: dict[str, Any], name: str) -> list[Row]:
    """The rows of a section, without those that have no model."""
    found = section(results, name).get("rows")
    if not isinstance(found, list):
        return []
    whole = [row for row in found if isinstance(row, dict) and row.get("model")]
    return [_with_cpu_time(row) for row in whole] if name == "throughput" else whole


def _with_cpu_time(row: Row) -> Row:
    """The row of an older document, which has no sum of user and kernel time, with that sum."""
    if "cpu_us" in row or number(row, "user_us") is None or number(row, "kernel_us") is None:
        return row
    both = zip(rounds(row, "user_us"), rounds(row, "kernel_us"), strict=False)
    sums = [None if user is None or kernel is None else user + kernel for user, kernel in both]
    columns = row.get("rounds")
    added = {"rounds": {**columns, "cpu_us": sums}} if isinstance(columns, dict) else {}
    return {**row, "cpu_us": row["user_us"] + row["kernel_us"], **added}


def number(row: Row, key: str) -> float | None:
    """A finite number, or None if it was not measured."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def rounds(row: Row, key: str) -> list[float | None]:
    """All rounds of a column; without them, its value as the only one."""
    columns = row.get("rounds")
    values = columns.get(key) if isinstance(columns, dict) else None
    if not isinstance(values, list):
        return [number(row, key)]
    return [number({key: value}, key) for value in values]


def serves_some(row: Row) -> bool:
    """Whether a row of throughput has unserved connections."""
    served, connections = number(row, "served"), number(row, "connections")
    return served is not None and connections is not None and served < connections


def models(results: dict[str, Any]) -> list[Row]:
    """The models of the run, in the document's order."""
    found = results.get("models")
    if not isinstance(found, list):
        return []
    return [model for model in found if isinstance(model, dict) and model.get("name")]


def model_order(results: dict[str, Any], found: Iterable[Row]) -> list[str]:
    """The models of the rows `found`: in the document's order, then those that it does not list."""
    present = dict.fromkeys(str(row["model"]) for row in found)
    listed = [str(model["name"]) for model in models(results)]
    return [name for name in listed if name in present] + [
        name for name in present if name not in listed
    ]


def counts(found: Iterable[Row], key: str) -> list[int]:
    """The distinct values of `key` (connections, idle connections), ascending."""
    values = {number(row, key) for row in found}
    return sorted(int(value) for value in values if value is not None)


def phase_samples(results: dict[str, Any]) -> list[Row]:
    """One sample per model: the nearest to the median of the rounds' medians, send to handler.

    Of two equally near ones it is the lower, so that it is always a real message. Times are
    nanoseconds, relative to `sent` = 0.
    """
    whole = [row for row in rows(results, "phases") if number(row, "handler") is not None]
    chosen = []
    for name, medians in handler_rounds(results).items():
        middle = median(each for each in medians if each is not None)
        mine = [_from_sent(row) for row in whole if row["model"] == name]
        chosen.append(min(mine, key=lambda row: (abs(row["handler"] - middle), row["handler"])))
    return chosen


def handler_rounds(results: dict[str, Any]) -> dict[str, list[float | None]]:
    """For each model the nanoseconds from send to handler: the median of each round's samples."""
    whole = [row for row in rows(results, "phases") if number(row, "handler") is not None]
    count = 1 + max((int(number(row, "round") or 0) for row in whole), default=0)
    found: dict[str, list[list[float]]] = {
        name: [[] for _ in range(count)] for name in model_order(results, whole)
    }
    for row in whole:
        taken = (number(row, "handler") or 0.0) - (number(row, "sent") or 0.0)
        found[str(row["model"])][max(0, int(number(row, "round") or 0))].append(taken)
    return {
        name: [median(samples) if samples else None for samples in each]
        for name, each in found.items()
    }


def answer_rounds(results: dict[str, Any]) -> dict[str, list[list[float]]]:
    """For each model and round the times of the first answers in milliseconds, ascending."""
    found = rows(results, "waiting")
    answers: dict[str, list[list[float]]] = {}
    for name in model_order(results, found):
        columns = [rounds(row, "first_answer_ms") for row in found if row["model"] == name]
        longest = max(map(len, columns))
        padded = [column + [None] * (longest - len(column)) for column in columns]
        answers[name] = [
            sorted(time for time in times if time is not None)
            for times in zip(*padded, strict=True)
        ]
    return answers


def _from_sent(row: Row) -> Row:
    """The row with all times relative to `sent`."""
    sent = number(row, "sent") or 0.0
    moved = dict(row)
    for key in ("asked", "sent", "arrived", "ready", "copy_begin", "copy_end", "handler"):
        value = number(row, key)
        moved[key] = None if value is None else value - sent
    moved["sent"] = 0.0
    return moved


def first_answers(results: dict[str, Any]) -> dict[str, list[float]]:
    """For each model the times of its clients' first answers in milliseconds, ascending."""
    found = rows(results, "waiting")
    answers: dict[str, list[float]] = {}
    for name in model_order(results, found):
        times = (number(row, "first_answer_ms") for row in found if row["model"] == name)
        answers[name] = sorted(time for time in times if time is not None)
    return answers
