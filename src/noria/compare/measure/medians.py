"""Merge the rows of several rounds: the median of each number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]

_NUMBER = re.compile(r"\d[\d,.]*")


def merge_rounds(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Return one row per value of `keys`, in order of first appearance.

    A number becomes the median of the rounds that have it, None if none has. Texts are joined; of
    texts that differ only in their numbers, the first is kept.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return [_merged(group, keys) for group in groups.values()]


def median_number(values: Iterable[Any]) -> Any:
    """The median of the numbers in `values`, ignoring other values; None without numbers."""
    numbers = [value for value in values if isinstance(value, (int, float))]
    if not numbers:
        return None
    found = median(numbers)
    return round(found) if all(isinstance(value, int) for value in numbers) else found


def distinct_texts(texts: Iterable[str]) -> str:
    """Join the texts, without those that differ from an earlier one only in numbers."""
    distinct: dict[str, str] = {}
    for text in filter(None, texts):
        distinct.setdefault(_NUMBER.sub("#", text), text)
    return "; ".join(distinct.values())


def _merged(group: list[Row], keys: Sequence[str]) -> Row:
    merged = dict(group[0])
    for key in merged:
        if key in keys:
            continue
        values = [row.get(key) for row in group]
        if isinstance(merged[key], str):
            merged[key] = distinct_texts(map(str, values))
            continue
        merged[key] = median_number(values)
    return merged
