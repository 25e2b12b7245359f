"""Writes the page of `noria compare loops`: one self-contained file that needs no network.

    write(results, "compare-loops.html")

`results` is the document of `noria compare loops`. These keys are read; all may be missing:

- the header of every document (`machine`, `date`, `command`, …), `noise`;
- `loops`: `name`, `version`, `available`, `reason`, `install`;
- `measurements`: `row`, `title`, `about`, `unit`, `lower_is_better`, `sentence`, and `group`, by
  which the rows are divided into figures, in order of first appearance;
- `rows`: `row`, `loop`, `value`, `rounds`, `lowest`, `highest`, `note`.

static/rows.js draws a small panel for each row: each loop's ratio to the base in the same round, a
dot at the median, a whisker from the lowest to the highest round, and the confidence interval. A
ratio above 1 is better than the base, also where lower values are better.
"""

from __future__ import annotations

import os
import re
from statistics import median
from typing import Any

from markupsafe import Markup

from noria.compare.report import page
from noria.compare.report.document import Row, number
from noria.compare.report.tables import Column, Table, Value
from noria.compare.statistics import paired_ratio

SCRIPTS = (*page.DRAWING, "noise.js", "loops.js", "page.js")

READING = (
    "Each loop is compared with the base, whose ratio is 1, within each round. A ratio above 1 is "
    "better, also where lower values are better. A dot is the median of the rounds, a whisker goes "
    "from the lowest to the highest round, and the pale bar is the confidence interval of the "
    "ratio, cut where it is longer than the axis. A sentence states a difference only if the "
    "interval of the two loops' ratio lies beyond 1.05 and beyond the noise of the row.",
    "All axes are logarithmic, so that twice as good and half as good are equally far from 1. The "
    "panels of a figure have one axis.",
)

Measurement = dict[str, Any]


def render(results: dict[str, Any]) -> str:
    """Return the page for the document of one comparison, which may be incomplete."""
    groups = _groups(results)
    drawn = {slug: [panel(results, each) for each in found] for slug, (_, found) in groups.items()}
    return page.template("loops.html.j2").render(
        header=page.header(results),
        loops=_listed(results, "loops", "name"),
        reading=READING,
        noise=page.noise_figure(results),
        figures=[
            page.figure(
                slug,
                title,
                _question(drawn[slug]),
                sentence(found),
                [table(drawn[slug])],
            )
            for slug, (title, found) in groups.items()
        ],
        css=Markup(page.text("report.css")),
        scripts=page.scripts(SCRIPTS),
        licences=page.licences(),
        data=page.embed({**results, "drawn": drawn}),
    )


def write(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page to `path` atomically. Raise OSError if the directory is not writable."""
    page.save(render(results), path)


def panel(results: dict[str, Any], measurement: Measurement) -> dict[str, Any]:
    """One row of the comparison as `ratioPanels` of static/rows.js draws it."""
    name = measurement["row"]
    found = {
        str(row["loop"]): row for row in _listed(results, "rows", "loop") if row.get("row") == name
    }
    measured = [loop for loop, row in found.items() if number(row, "value") is not None]
    base = "asyncio" if "asyncio" in measured else next(iter(measured), "")
    less = bool(measurement.get("lower_is_better"))
    unit = str(measurement.get("unit") or "")
    return {
        "title": measurement.get("title") or name,
        "note": "; ".join(filter(None, [_base_note(base, found, unit), "less is better" * less])),
        "about": measurement.get("about") or "",
        "base": base,
        "unit": unit,
        "items": [_item(loop, row, found.get(base), less, unit) for loop, row in found.items()],
    }


def _base_note(base: str, found: dict[str, Row], unit: str) -> str:
    """The value of the base, so that a reader can turn ratios into values."""
    value = number(found.get(base) or {}, "value")
    return "" if value is None else f"{base}: {_with_unit(value, unit)}"


def _item(loop: str, row: Row, base: Row | None, less: bool, unit: str) -> dict[str, Any]:
    """One loop in one row: its value, and its ratio to the base."""
    value, note = number(row, "value"), str(row.get("note") or "")
    if value is None or base is None:
        return {"name": loop, "missing": note or "not measured"}
    mine, others = _rounds(row), _rounds(base)
    if less:
        mine, others = others, mine
    each = [
        one / other
        for one, other in zip(mine, others, strict=False)
        if one is not None and other is not None and one > 0 and other > 0
    ]
    found: dict[str, Any] = {
        "name": loop,
        "value": value,
        "lowest_value": number(row.get("lowest") or {}, "value"),
        "highest_value": number(row.get("highest") or {}, "value"),
        "text": "; ".join(filter(None, [_with_unit(value, unit), note])),
        "rounds": len(each),
    }
    if not each:
        return {**found, "missing": note or "no round has both"}
    found |= {"ratio": median(each), "lowest": min(each), "highest": max(each)}
    interval = None if row is base else paired_ratio(mine, others)
    if interval is not None:
        found |= {"ratio": interval.median, "low": interval.low, "high": interval.high}
    return found


def table(panels: list[dict[str, Any]]) -> Table:
    """The numbers of a figure: a group for each row, a line for each loop."""
    groups: list[list[list[Value]]] = [
        [
            [
                each["title"],
                item["name"],
                item.get("rounds"),
                _spread(item, "value", "lowest_value", "highest_value", each["unit"]),
                _spread(item, "ratio", "lowest", "highest"),
                _interval(item),
            ]
            for item in each["items"]
        ]
        for each in panels
    ]
    return Table(
        "Median (lowest to highest) of the rounds",
        [
            Column("row"),
            Column("loop"),
            Column("rounds", "{:.0f}".format),
            Column("value"),
            Column("ratio to the base"),
            Column("confidence interval"),
        ],
        groups,
        [
            f"{each['title']}: {each['about']}"
            + (f"; the base is {each['base']}." if each["base"] else ".")
            for each in panels
            if each["about"]
        ],
    )


def sentence(measurements: list[Measurement]) -> str:
    """The document's sentence about each row, a line each."""
    said = [
        f"{each.get('title') or each['row']}: {each['sentence']}"
        for each in measurements
        if each.get("sentence")
    ]
    return "\n".join(said) or "Nothing is said about these rows."


def _question(panels: list[dict[str, Any]]) -> str:
    bases = list(dict.fromkeys(each["base"] for each in panels if each["base"]))
    base = bases[0] if len(bases) == 1 else "the base"
    return f"How many times as good as {base} is each loop? More is better."


def _groups(results: dict[str, Any]) -> dict[str, tuple[str, list[Measurement]]]:
    """The measurements by figure: its name in the page, and its title."""
    groups: dict[str, tuple[str, list[Measurement]]] = {}
    for measurement in _listed(results, "measurements", "row"):
        title = str(measurement.get("group") or "all rows")
        slug = re.sub(r"\W+", "-", title.lower()).strip("-") or "rows"
        groups.setdefault(slug, (f"{title[0].upper()}{title[1:]}", []))[1].append(measurement)
    return groups


def _listed(results: dict[str, Any], key: str, needed: str) -> list[Row]:
    found = results.get(key)
    if not isinstance(found, list):
        return []
    return [each for each in found if isinstance(each, dict) and each.get(needed)]


def _rounds(row: Row) -> list[float | None]:
    rounds = row.get("rounds")
    values = rounds.get("value") if isinstance(rounds, dict) else None
    if not values:
        return [number(row, "value")]
    return [number({"value": each}, "value") for each in values]


def _amount(value: float) -> str:
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}"


def _with_unit(value: float, unit: str) -> str:
    """A value with its unit: 1,234/s, 12.3 ms."""
    return f"{_amount(value)}{'' if unit.startswith('/') else ' '}{unit}".strip()


def _spread(item: dict[str, Any], key: str, low: str, high: str, unit: str = "") -> str | None:
    """A number with its unit and its spread: 1,234 (1,200 to 1,290) /s."""
    values = [item.get(each) for each in (key, low, high)]
    if values[0] is None:
        return item.get("missing") if key == "value" else None
    written = _amount(float(values[0]))
    if None not in values[1:]:
        written += f" ({_amount(float(values[1] or 0))} to {_amount(float(values[2] or 0))})"
    return f"{written} {unit}".strip()


def _interval(item: dict[str, Any]) -> str | None:
    low, high = item.get("low"), item.get("high")
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"
