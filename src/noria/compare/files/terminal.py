"""Draws the path on a terminal: one row per step, one bar per station of the bytes."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from noria.compare.files import figure
from noria.compare.report import tables

PARTS = {
    "buffer": ("█", "blue"),
    "dirty": ("▓", "yellow"),
    "writeback": ("▒", "magenta"),
    "clean": ("░", "green"),
    "cached": ("░", "cyan"),
    "device": ("█", "green"),
}
"""A character and a colour for each, so that either is enough."""

LEGEND = "▓ dirty   ▒ under writeback   ░ clean"
MIN_BAR_WIDTH, MAX_BAR_WIDTH = 8, 24


def print_all(results: dict[str, Any], console: Console) -> None:
    """Print the drawing, the table of times, the notes and the sentence."""
    place = results.get("place") or {}
    known = results.get("rows")
    if known:
        console.print(_drawing(results, console.width))
        if not figure.dirty_unknown(results):
            console.print(Text(LEGEND, style="dim"))
        console.print()
        console.print(tables.for_terminal(figure.table(results), console.width))
        console.print()
    for note in figure.notes(results):
        console.print(Text(note, style="dim"))
    console.print()
    if place.get("directory"):
        words = f"{place['directory']}: {place.get('filesystem')} on {place.get('source')}"
        console.print(Text(words, style="dim"))
    console.print(Text(figure.sentence(results), style="italic"))


def _drawing(results: dict[str, Any], width: int) -> Table:
    found = figure.stages(results)
    first = max([len(_name(stage, found)) for stage in found], default=4)
    bar = max(MIN_BAR_WIDTH, min(MAX_BAR_WIDTH, (width - first) // 3 - 3))
    size = figure.amount(float(results.get("size") or 0))
    drawn = Table(
        title=Text(f"Where {size} are after each step", style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    drawn.add_column("")
    for name in figure.STATIONS:
        arrow = "" if name == figure.STATIONS[-1] else " →"
        drawn.add_column(f"{name}{arrow}")
    for stage in found:
        drawn.add_row(
            Text(_name(stage, found)), *(_station(station, bar) for station in stage.stations)
        )
    return drawn


def _name(stage: figure.Stage, found: list[figure.Stage]) -> str:
    """The step, with its engine if the engines differ."""
    alone = sum(other.step == stage.step for other in found) == 1
    return stage.step if alone else f"{stage.step} ({', '.join(stage.engines)})"


def _station(station: figure.Station, width: int) -> Text:
    """The bar, and its text below."""
    drawn = Text()
    left = width
    for name, share in station.parts:
        character, colour = PARTS[name]
        count = min(left, max(1, round(share * width)))  # at least one character
        drawn.append(character * count, style=colour)
        left -= count
    drawn.append(("·" if station.known else "?") * left, style="dim")
    drawn.append(f"\n{station.text}", style="dim")
    return drawn
