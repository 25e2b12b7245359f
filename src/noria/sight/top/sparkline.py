"""Columns of block characters: sparklines, bars and histograms, without a terminal library."""

from __future__ import annotations

import math
from collections.abc import Sequence

from noria.sight.observation import Distribution

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*%#"


def sparkline(
    values: Sequence[float], width: int, height: int = 1, top: float = 0.0, ascii: bool = False
) -> list[str]:
    """Return *height* lines, the highest first, with the last *width* values, the newest at right.

    *top* is the value of a full column; 0 takes the largest value. A value above 0 is never blank.
    """
    shown = list(values)[-width:] if width > 0 else []
    top = top or max(shown, default=0.0)
    steps = len(BLOCKS) - 1
    levels = [
        min(max(math.ceil(value / top * steps * height - 1e-9), 1), steps * height)
        if value > 0 and top > 0
        else 0
        for value in shown
    ]
    blocks = ASCII_BLOCKS if ascii else BLOCKS
    lines = []
    for line in range(height - 1, -1, -1):
        cells = (blocks[min(max(level - line * steps, 0), steps)] for level in levels)
        lines.append("".join(cells).rjust(width))
    return lines


def bar(share: float, width: int, ascii: bool = False) -> str:
    """Return a horizontal bar of *width* characters that is filled to *share* (0 to 1)."""
    full, empty = ("#", ".") if ascii else ("█", "░")
    filled = min(max(round(share * width), 1 if share > 0 else 0), width)
    return full * filled + empty * (width - filled)


def histogram(durations: Distribution, columns: int) -> tuple[list[float], int, int]:
    """Return the counts of *columns* equal steps on a logarithmic axis, and its two ends in ns."""
    used = [(bound, count) for bound, count in durations.buckets if count and bound > 0]
    if not used or columns < 1:
        return [], 0, 0
    low = 10 ** math.floor(math.log10(used[0][0]) - 1e-9)
    high = 10 ** math.ceil(math.log10(max(used[-1][0], low * 10)) - 1e-9)
    scale = columns / math.log10(high / low)
    counts = [0.0] * columns
    for bound, count in used:
        # A bucket is up to 12.5% wide and may span columns: it is spread over all of them.
        first = math.log10(max(bound / 1.125, low) / low) * scale
        last = min(math.log10(bound / low) * scale, columns)
        for column in range(int(first), min(math.ceil(last - 1e-9), columns)):
            part = min(column + 1, last) - max(column, first)
            counts[column] += count * part / max(last - first, 1e-9)
    return counts, int(low), int(high)
