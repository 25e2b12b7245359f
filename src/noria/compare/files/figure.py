"""The document as stages, texts and a table, which the terminal and the page draw.

A missing number is None here, and drawn as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noria.compare.files.steps import STEPS
from noria.compare.report.document import number, section
from noria.compare.report.tables import Column, Table

STATIONS = ("process buffer", "page cache", "device")

BLOCKED_NOTE = "longest stall of the loop in the step, measured by a timer"
WORKED_NOTE = "CPU time of the loop thread, mostly for copying"

Part = tuple[str, float]
"""The state of bytes ("buffer", "clean", "dirty", "writeback", "cached", "device") and their share
of all bytes, 0 to 1. "cached" is clean or dirty: mincore(2) does not distinguish."""


@dataclass(frozen=True)
class Station:
    """A place of bytes: the parts of its bar, and their text."""

    parts: list[Part]
    text: str
    known: bool = True


@dataclass(frozen=True)
class Time:
    """Time and stall of a step with one engine, also as shares of the longest time."""

    engine: str
    us: float | None
    stall_us: float | None
    waited: str
    share: float
    stall_share: float


@dataclass(frozen=True)
class Stage:
    """Where the bytes are after one step. `engines` with the same numbers share a stage."""

    step: str
    what: str
    engines: list[str]
    stations: list[Station]
    times: list[Time]


def stages(results: dict[str, Any]) -> list[Stage]:
    """One stage per step, several if the engines differ."""
    rows = _rows(results)
    size = number(results, "size") or 1.0
    longest = max([number(row, "us") or 0.0 for row in rows], default=0.0) or 1.0
    made = []
    for step, what in STEPS.items():
        seen: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            if row["step"] == step:
                place = tuple(number(row, key) for key in _PLACES)
                seen.setdefault(place, []).append(row)
        for place, same in seen.items():
            made.append(
                Stage(
                    step,
                    what,
                    [str(row.get("engine")) for row in same],
                    _stations(dict(zip(_PLACES, place, strict=True)), size, results),
                    [_time(row, longest) for row in same],
                )
            )
    return made


def table(results: dict[str, Any]) -> Table:
    """One row per step, the engines side by side."""
    rows = _rows(results)
    engines = list(dict.fromkeys(str(row.get("engine")) for row in rows))
    columns = [Column("step")]
    for engine in engines:
        columns += [
            Column(engine, duration),
            Column("waited"),
            Column("loop blocked", duration, keep=8, about=BLOCKED_NOTE),
            Column("loop worked", duration, keep=2, about=WORKED_NOTE),
        ]
    lines: list[list[Any]] = []
    for step in STEPS:
        found = {row.get("engine"): row for row in rows if row["step"] == step}
        if found:
            line: list[Any] = [step]
            for engine in engines:
                row = found.get(engine, {})
                line += [number(row, "us"), _who(row)]
                line += [number(row, "stall_us"), number(row, "work_us")]
            lines.append(line)
    repeats = number(results, "repeats")
    medians = f", medians of {repeats:.0f}" if repeats and repeats > 1 else ""
    return Table(f"How long each step took{medians}", columns, [lines])


def notes(results: dict[str, Any]) -> list[str]:
    """Explanations of the figures, and what could not be measured."""
    sentences = []
    if results.get("counted"):
        sentences.append(f"Process buffer: counted by the file object. {_counted(results)}")
        if not _no_device(results):
            sentences.append(
                f"Device: derived, as {_concluded(results)}. After a direct write the bytes may "
                "still be in the device's own cache, which only fsync empties."
            )
    place = section(results, "place")
    if place.get("note"):
        sentences.append(str(place["note"]))
    sentences += [
        f"{engine.get('name')} is not available here: {engine.get('reason')}."
        for engine in _engines(results)
        if not engine.get("available", True)
    ]
    sentences += [f"{row['note']}." for row in _rows(results) if row.get("note")]
    idle = [
        f"{duration(late)} ({engine.get('name')})"
        for engine in _engines(results)
        if (late := number(engine, "idle_us")) is not None
    ]
    if idle:
        sentences.append(f"In an idle loop the longest stall was {', '.join(idle)}.")
    return list(dict.fromkeys(sentences))


def dirty_unknown(results: dict[str, Any]) -> bool:
    """Whether clean and dirty pages are not distinguished: unknown, or there is no device."""
    return results.get("counted") == "mincore" or _no_device(results)


def sentence(results: dict[str, Any]) -> str:
    """The figure in sentences, without those whose numbers are missing."""
    rows = {(row["step"], row.get("engine")): row for row in _rows(results)}
    engine = next((name for name in ("ring", "threads") if ("write", name) in rows), None)
    if engine is None:
        return "No step was measured."

    def took(step: str, words: str) -> str:
        us = number(rows.get((step, engine), {}), "us")
        return "" if us is None else f"{duration(us)} {words}"

    no_device = _no_device(results)
    size = number(results, "size")
    there = [
        took("write", "into the process's buffer"),
        took("flush", "from there into the page cache"),
        "" if no_device else took("fsync", "on to the device"),
        "" if no_device else took("direct write", "bypassing the cache"),
    ]
    back = [
        took("read cached", "from the cache"),
        "" if no_device else took("read dropped", "after the cache was dropped"),
        "" if no_device else took("direct read", "bypassing the cache"),
    ]
    stalls = {
        step: number(row, "stall_us") or 0.0 for (step, at), row in rows.items() if at == engine
    }
    worst = max(stalls, key=lambda step: stalls[step])
    what = amount(size) if size else "the bytes"
    sentences = [f"With {engine}, {what} took {', '.join(filter(None, there))}."]
    if any(back):
        sentences.append(f"Reading them back took {', '.join(filter(None, back))}.")
    sentences.append(
        f"The loop was blocked longest in the step '{worst}': {duration(stalls[worst])}."
    )
    return " ".join(sentences)


def amount(size: float) -> str:
    """A number of bytes as text."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1024:
            return f"{size:,.1f} {unit}"
    return f"{size / 1024:,.1f} GiB"


def duration(us: float) -> str:
    """Microseconds as text."""
    if us < 1000:
        return f"{us:.0f} µs"
    return f"{us / 1000:.1f} ms" if us < 100_000 else f"{us / 1000:,.0f} ms"


_PLACES = ("buffer", "cached", "dirty", "writeback", "device")


def _counted(results: dict[str, Any]) -> str:
    if results["counted"] == "cachestat":
        return "Page cache: counted by cachestat(2), in whole pages."
    return (
        f"Page cache: counted by mincore(2), in whole pages, as {results.get('counted_reason')}. "
        "mincore does not distinguish clean and dirty pages."
    )


def _concluded(results: dict[str, Any]) -> str:
    if results["counted"] == "cachestat":
        return "the bytes that are not in the process, dirty or under writeback"
    return "all bytes after fsync has returned or while no page is cached, else unknown"


def _rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    found = results.get("rows")
    return [row for row in found if row.get("step") in STEPS] if isinstance(found, list) else []


def _engines(results: dict[str, Any]) -> list[dict[str, Any]]:
    found = results.get("engines")
    return found if isinstance(found, list) else []


def _no_device(results: dict[str, Any]) -> bool:
    return section(results, "place").get("device") is False


def _stations(seen: dict[str, float | None], size: float, results: dict[str, Any]) -> list[Station]:
    buffer, cached = seen["buffer"], seen["cached"]
    device = None if _no_device(results) else seen["device"]
    dirty, writeback = (
        (None, None) if dirty_unknown(results) else (seen["dirty"], seen["writeback"])
    )
    nothing = "no device" if _no_device(results) else "not known"
    return [
        Station(_parts({"buffer": buffer}, size), _text(buffer)),
        _cache(cached, dirty, writeback, size),
        Station(_parts({"device": device}, size), _text(device, nothing), device is not None),
    ]


def _cache(
    cached: float | None, dirty: float | None, writeback: float | None, size: float
) -> Station:
    if not cached or dirty is None or writeback is None:
        return Station(_parts({"cached": cached}, size), _text(cached))
    states = {"dirty": dirty, "writeback": writeback, "clean": max(0.0, cached - dirty - writeback)}
    states = {name: count for name, count in states.items() if count}
    text = ", ".join(f"{amount(count)} {name}" for name, count in states.items())
    return Station(_parts(states, max(size, cached)), text)


def _parts(counts: Mapping[str, float | None], size: float) -> list[Part]:
    return [(name, min(1.0, count / size)) for name, count in counts.items() if count]


def _text(count: float | None, unknown: str = "not known") -> str:
    return unknown if count is None else amount(count) if count else "–"


def _time(row: dict[str, Any], longest: float) -> Time:
    us, stall = number(row, "us"), number(row, "stall_us")
    share = (us or 0.0) / longest
    stalled = min(share, (stall or 0.0) / longest)
    return Time(str(row.get("engine")), us, stall, _who(row), share, stalled)


def _who(row: dict[str, Any]) -> str:
    """What waited, as text."""
    return {"loop": "the loop", "ring": "the ring", "threads": "a thread"}.get(
        str(row.get("waited")), str(row.get("waited") or "")
    )
