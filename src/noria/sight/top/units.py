"""Figures as short text for tables: durations, sizes, counts, shares, places."""

from __future__ import annotations

import os
import re

from noria.sight.observation import Place

# Control characters, and characters that hide or reorder the text around them: names and peers come
# from the observed program and must not control the terminal.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def duration(ns: float) -> str:
    """Return nanoseconds with three digits: "850ns", "12.3µs", "412ms", "1.80s", "3m20s", "2d04h".

    0 is "0".
    """
    if ns <= 0:
        return "0"
    for limit, divisor, unit in ((999.5, 1, "ns"), (999.5e3, 1e3, "µs"), (999.5e6, 1e6, "ms")):
        if ns < limit:
            return f"{ns:.0f}ns" if divisor == 1 else f"{_three_digits(ns / divisor)}{unit}"
    seconds = ns / 1e9
    if seconds < 59.95:
        return f"{_three_digits(seconds)}s"
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{whole:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 24 else f"{hours // 24}d{hours % 24:02}h"


def size(count: float) -> str:
    """Return bytes with three digits: "200B", "64.0KiB", "1.50MiB"."""
    if count < 999.5:
        return f"{count:.0f}B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 999.5:
            return f"{_three_digits(count)}{unit}"
    return f"{_three_digits(count / 1024)}TiB"


def number(count: float) -> str:
    """Return a count of at most six characters: "0.25", "7", "12,345", "1.23M"."""
    if count < 99.95 and count != int(count):
        return f"{count:.2f}" if count < 9.995 else f"{count:.1f}"
    if count < 99_999.5:
        return f"{count:,.0f}"
    for divisor, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if count < 999.5 * divisor:
            return f"{_three_digits(count / divisor)}{unit}"
    return f"{count / 1e12:.3g}T"


def known(count: float | None) -> str:
    """Return a count as `number` does, "?" if it is unknown."""
    return "?" if count is None else number(count)


def rate(per_second: float) -> str:
    """Return a number each second: "12,345/s"."""
    return f"{number(per_second)}/s"


def share(value: float) -> str:
    """Return 0.4314 as "43.1%"; "<0.1%" for less than that, "" for 0."""
    if value <= 0:
        return ""
    return "<0.1%" if value < 0.001 else f"{value * 100:.1f}%" if value < 0.9995 else f"{value:.0%}"


def file_line(place: Place) -> str:
    """Return "module.py:12", with the name of the directory for __init__.py; "" if unknown."""
    if not place.file:
        return ""
    name = os.path.basename(place.file)
    if name in ("__init__.py", "__main__.py"):
        name = os.path.join(os.path.basename(os.path.dirname(place.file)), name)
    return clean(f"{name}:{place.line}" if place.line else name)


def line_and_function(place: Place | None) -> str:
    """Return "module.py:12 function", or as much of it as is known."""
    if place is None:
        return ""
    return " ".join(filter(None, (file_line(place), clean(place.function))))


def clean(text: str) -> str:
    r"""Return *text* in one line that is safe to show: control characters as ``\xNN``."""
    return _UNSAFE.sub(_escape, text)


def clipped(text: str, width: int) -> str:
    """Return at most *width* characters; an ellipsis replaces the end of a longer text."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"[:width]


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
