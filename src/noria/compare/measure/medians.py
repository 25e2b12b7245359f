"""Several rounds made one: the median of each number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]

_NUMBER = re.compile(r"\d[\d,.]*")


def merge(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """One row for each value of `keys`, in order of the first; texts and notes are joined,
    and of those that differ in their numbers alone the first stands for all.

    A number that some rounds lack is the median of the others, None if all lack it.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return [_merged(group, keys) for group in groups.values()]


def middle(values: Iterable[Any]) -> Any:
    """The median of the numbers among them, None if there is none."""
    numbers = [value for value in values if isinstance(value, (int, float))]
    if not numbers:
        return None
    found = median(numbers)
    return round(found) if all(isinstance(value, int) for value in numbers) else found


def joined(texts: Iterable[str]) -> str:
    """The texts that say something else than those before them."""
    told: dict[str, str] = {}
    for text in filter(None, texts):
        told.setdefault(_NUMBER.sub("#", text), text)
    return "; ".join(told.values())


def _merged(group: list[Row], keys: Sequence[str]) -> Row:
    merged = dict(group[0])
    for key in merged:
        if key in keys:
            continue
        values = [row.get(key) for row in group]
        if isinstance(merged[key], str):
            merged[key] = joined(map(str, values))
            continue
        merged[key] = middle(values)
    return merged
