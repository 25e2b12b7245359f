"""Lines of styled text: figures with sparklines, source lines, histograms."""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable, Sequence

from noria.sight.observation import Distribution, Place
from noria.sight.top import units
from noria.sight.top.sparkline import histogram, sparkline
from noria.sight.top.tables import ACCENT, BAD, DIM, GOOD, PLAIN, STRONG, WARN, Cell

Line = list[Cell]

LABEL_WIDTH = 15
FIGURE_WIDTH = 9  # of a percentile
PERCENTILES = (50, 90, 99)
SHORTEST, DECADES = 1e3, 6  # of a logarithmic sparkline: from 1 µs to 1 s
LEAST_SPARKLINE = 8  # characters; narrower ones are left out


def plain(line: Line) -> str:
    """Return the text of a line without its styles."""
    return "".join(text for text, _ in line)


def cropped(line: Line, width: int) -> Line:
    """Return at most *width* characters of a line, with an ellipsis if it was longer."""
    found: Line = []
    for text, style in line:
        if width <= 0:
            break
        text = units.clipped(text, width)
        found.append((text, style))
        width -= len(text)
    return found


def label(text: str) -> Cell:
    """Return the name in front of a line of figures."""
    return f" {text}".ljust(LABEL_WIDTH), DIM


def shown_percentiles(width: int) -> tuple[int, ...]:
    """Return the percentiles for which there is room beside the maximum; the last ones stay."""
    room = max((width - LABEL_WIDTH) // FIGURE_WIDTH - 1, 1)
    return PERCENTILES[-room:]


def percentile_header(width: int) -> Line:
    """Return the titles above `percentile_line`."""
    titles = [f"p{percent}" for percent in shown_percentiles(width)] + ["max"]
    return [(" " * LABEL_WIDTH, PLAIN), ("".join(f"{t:>{FIGURE_WIDTH}}" for t in titles), DIM)]


def percentile_line(
    name: str,
    durations: Distribution,
    series: Sequence[float],
    width: int,
    *,
    bad: float = math.inf,
    ascii: bool,
) -> Line:
    """Return the percentiles of durations, and a sparkline of *series*.

    Figures of at least *bad* ns are red, of a tenth of it yellow.
    """
    line: Line = [label(name)]
    figures = [durations.percentile(percent) for percent in shown_percentiles(width)]
    figures.append(durations.longest)
    for figure in figures:
        text = units.duration(figure) if durations.count else "–" if not ascii else "-"
        line.append((f"{text:>{FIGURE_WIDTH}}", _level(figure, bad, PLAIN)))
    used = LABEL_WIDTH + FIGURE_WIDTH * len(figures)
    return line + spark(
        series, width - used, ascii=ascii, level=lambda v: _level(v, bad), logarithmic=True
    )


def figure_line(
    name: str, text: str, series: Sequence[float], width: int, *, ascii: bool, spark_at: int = 0
) -> Line:
    """Return a line of text, and behind it a sparkline that begins at column *spark_at*."""
    line: Line = [label(name), (text, PLAIN)]
    used = LABEL_WIDTH + len(text)
    if series and used <= spark_at:
        line.append((" " * (spark_at - used), PLAIN))
        line += spark(series, width - spark_at, ascii=ascii)
    return line


def spark(
    series: Sequence[float],
    width: int,
    *,
    ascii: bool,
    level: Callable[[float], str] | None = None,
    top: float = 0.0,
    logarithmic: bool = False,
) -> Line:
    """Return a sparkline in *width* characters with a margin of two at left and one at right.

    *level* returns the style of a value. A *logarithmic* one is of durations from 1 µs to 1 s.
    """
    columns = width - 3
    if columns < LEAST_SPARKLINE or not series:
        return []
    heights = list(series)
    if logarithmic:
        heights = [logarithmic_height(value) for value in series]
        top = 1.0
    text = sparkline(heights, columns, ascii=ascii, top=top)[0]
    return [("  ", PLAIN), *coloured(text, series, level), (" ", PLAIN)]


def logarithmic_height(ns: float) -> float:
    """Return 0 for nothing, just above it for up to 1 µs, and 1 for 1 s and more."""
    return min(max(math.log10(ns / SHORTEST) / DECADES, 0.01), 1.0) if ns > 0 else 0.0


def coloured(
    text: str, series: Sequence[float], level: Callable[[float], str] | None = None
) -> Line:
    """Return a line of a sparkline with the style of each value."""
    if level is None:
        return [(text, ACCENT)]
    shown = list(series)[-len(text) :]
    styles = [PLAIN] * (len(text) - len(shown)) + [level(value) for value in shown]
    line: Line = []
    for character, style in zip(text, styles, strict=True):
        if line and line[-1][1] == style:
            line[-1] = line[-1][0] + character, style
        else:
            line.append((character, style))
    return line


def utilization_level(value: float) -> str:
    """Return the style of a utilisation: 0 to 1."""
    return BAD if value >= 0.9 else WARN if value >= 0.7 else GOOD


def _level(value: float, bad: float, good: str = ACCENT) -> str:
    return BAD if value >= bad else WARN if value >= bad / 10 else good


def histogram_lines(durations: Distribution, width: int, height: int, ascii: bool) -> list[Line]:
    """Return a histogram of durations on a logarithmic axis, with the axis below."""
    columns = width - 2
    counts, low, high = histogram(durations, columns)
    if not counts or height < 1:
        return [[(" none yet", DIM)]]
    lines: list[Line] = [
        [(" ", PLAIN), (text, ACCENT)] for text in sparkline(counts, columns, height, ascii=ascii)
    ]
    axis = [" "] * columns
    decades = round(math.log10(high / low))
    free = 0
    for decade in range(decades + 1):
        text = units.duration(low * 10**decade).replace(".00", "").replace(".0", "")
        position = min(decade * columns // decades, columns - len(text))
        if position >= free:
            axis[position : position + len(text)] = text
            free = position + len(text) + 1
    return [*lines, [(" " + "".join(axis), DIM)]]


def heading(text: str) -> Line:
    """Return the heading of a section."""
    return [(f" {text}", STRONG)]


def place_lines(place: Place, ascii: bool, context: int = 0) -> list[Line]:
    """Return a function, its file and line, and below them the line's source.

    *context* is the number of lines to show before and after it, if the file can be read here.
    """
    line: Line = [(" ", PLAIN), (units.clean(place.function) or "?", STRONG)]
    if place.file:
        line.append((f"  {units.clean(place.file)}:{place.line}", DIM))
    return [line, *source_lines(place, ascii, context)]


def source_lines(place: Place, ascii: bool, context: int = 0) -> list[Line]:
    """Return the source of a place. Its own text has precedence over the file's."""
    here = place.source or linecache.getline(place.file, place.line)
    if not here.strip():
        return []
    # The file may have changed since the program read it: show it only if the line is still there.
    around: dict[int, str] = {place.line: here}
    if linecache.getline(place.file, place.line).strip() == here.strip():
        for number in range(max(place.line - context, 1), place.line + context + 1):
            around[number] = linecache.getline(place.file, number)
    texts = {number: units.clean(text.rstrip().expandtabs()) for number, text in around.items()}
    texts = {number: text for number, text in sorted(texts.items()) if text or number == place.line}
    margin = min(len(text) - len(text.lstrip()) for text in texts.values() if text)
    mark = ">" if ascii else "▸"
    return [
        [
            (f"   {mark if number == place.line else ' '} {number or '':>5}  ", DIM),
            (text[margin:], ACCENT if number == place.line else DIM),
        ]
        for number, text in texts.items()
    ]
