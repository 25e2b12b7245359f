"""Figures as words: durations, sizes, numbers, shares."""

from __future__ import annotations


def duration(ns: float) -> str:
    """Return nanoseconds as "850 ns", "12 µs", "412 ms", "1.8 s", "12 s", "3 min 20 s"."""
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if ns < limit * 0.9995:
            return f"{_digits(ns / divisor)} {unit}"
    seconds = ns / 1e9
    if seconds < 99.5:
        return f"{_digits(seconds)} s"
    minutes, seconds = divmod(round(seconds), 60)
    return (
        f"{minutes} min {seconds} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
    )


def size(count: float) -> str:
    """Return bytes as "200 bytes", "64 KiB", "1.5 MiB"."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 999.5:
            return f"{_digits(count)} {unit}"
    return f"{_digits(count / 1024)} TiB"


def share(value: float) -> str:
    """Return 0.534 as "53%"."""
    return f"{value * 100:.0f}%"


def plural(count: int, noun: str, plural_noun: str = "") -> str:
    """Return "1 task", "2,000 tasks"."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def _digits(value: float) -> str:
    """Two significant digits below 10, else none after the point."""
    text = f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"
    return text.removesuffix(".0")
