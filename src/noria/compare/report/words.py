"""Numbers and lists as words."""

from __future__ import annotations

import math
from collections.abc import Iterable

from noria.compare.statistics import PairedRatio, Spread

CLOSE = 0.1
"""Part of the median within which all rounds lie that are written with three digits, not two."""


def about(spread: Spread, unit: str) -> str:
    """A median and its ends, rounded: "about 150,000 messages per second (140,000–158,000)"."""
    scale = 1.0
    if unit == "µs" and abs(spread.median) >= 10_000:
        scale, unit = 1000.0, "ms"
    near = spread.highest - spread.lowest <= CLOSE * abs(spread.median)
    digits = 3 if near else 2
    middle, low, high = (
        rounded(value / scale, digits) for value in (spread.median, spread.lowest, spread.highest)
    )
    ends = "" if low == high else f" ({low}–{high})"
    return f"about {middle}{' ' if unit else ''}{unit}{ends}"


def rounded(value: float, digits: int) -> str:
    """The value with so many significant digits, and commas."""
    if not value:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def times(ratio: PairedRatio) -> str:
    """A ratio and its interval: "1.22 (1.15–1.30) times"."""
    digits = 2 if ratio.high >= 10 else 3
    middle, low, high = (rounded(value, digits) for value in (ratio.median, ratio.low, ratio.high))
    ends = "" if low == high else f" ({low}–{high})"
    return f"{middle}{ends} times"


def share(ratio: PairedRatio) -> str:
    """A ratio below 1 and its interval: "82% (77–87%)"."""
    middle, low, high = (f"{100 * value:.0f}" for value in (ratio.median, ratio.low, ratio.high))
    ends = "" if low == high else f" ({low}–{high}%)"
    return f"{middle}%{ends}"


def names(listed: Iterable[str]) -> str:
    """A list as words: "a, b and c"."""
    listed = list(listed)
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def count(n: int, noun: str) -> str:
    """A number with its noun, which gets an s unless the number is 1."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def often(n: int) -> str:
    """How often: "not once", "once", "twice", "3 times"."""
    return {0: "not once", 1: "once", 2: "twice"}.get(n, f"{n:,} times")


def nanoseconds(value: float) -> str:
    """Nanoseconds as µs or ms, with two digits."""
    microseconds = value / 1000
    if abs(microseconds) >= 10_000:
        return f"{rounded(microseconds / 1000, 2)} ms"
    return f"{rounded(microseconds, 2)} µs"


def size(size_bytes: float | None) -> str:
    """A message's size."""
    if size_bytes is None:
        return "the message"
    if size_bytes >= 1024 and size_bytes % 1024 == 0:
        return f"{size_bytes / 1024:,.0f} KiB"
    return count(int(size_bytes), "byte")
