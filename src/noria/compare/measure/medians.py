"""Merge the rows of several rounds: the median, the lowest and the highest of each number."""

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
    return [_merged(group, keys) for group in _groups(rows, keys)]


def merge_with_spread(rows: Sequence[Row], keys: Sequence[str], rounds: int) -> list[Row]:
    """Merge as merge_rounds() does, and keep the rounds.

    Rows with the same keys are the rounds, in order. "rounds" has all of them for each column of
    numbers, `rounds` values with None for a missing one; "lowest" and "highest" have their ends.
    """
    merged = []
    for group in _groups(rows, keys):
        row = _merged(group, keys)
        columns = {
            key: [each.get(key) for each in group] + [None] * (rounds - len(group))
            for key, value in group[0].items()
            if key not in keys and not isinstance(value, str)
        }
        row["rounds"] = columns
        for end, choose in (("lowest", min), ("highest", max)):
            row[end] = {
                key: choose(numbers) if (numbers := _numbers(values)) else None
                for key, values in columns.items()
            }
        merged.append(row)
    return merged


def median_number(values: Iterable[Any]) -> Any:
    """The median of the numbers in `values`, ignoring other values; None without numbers."""
    numbers = _numbers(values)
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


def _numbers(values: Iterable[Any]) -> list[int | float]:
    return [value for value in values if isinstance(value, (int, float))]


def _groups(rows: Sequence[Row], keys: Sequence[str]) -> list[list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.values())


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
