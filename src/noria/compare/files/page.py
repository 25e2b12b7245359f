"""Writes the page of `noria compare files`: one self-contained file."""

from __future__ import annotations

import os
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from noria.compare.files import figure
from noria.compare.report import page

HERE = files("noria.compare.files")

WORDS = {
    "dirty": "dirty: not on the device yet",
    "writeback": "under writeback: being written to the device",
    "clean": "clean: also on the device",
    "cached": "cached",
}


def render(results: dict[str, Any]) -> str:
    """Return the page for the document of one run."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    dirty_unknown = figure.dirty_unknown(results)
    place = results.get("place") or {}
    header = page.header(results)
    if place:
        header[2:2] = [
            ("file system", f"{place.get('filesystem')} on {place.get('source')}"),
            ("pages counted by", f"{results.get('counted')}(2)"),
        ]
    return environment.from_string(_text("files.html.j2")).render(
        header=header,
        size=figure.amount(float(results.get("size") or 0)),
        stations=figure.STATIONS,
        stages=figure.stages(results),
        duration=figure.duration,
        legend=[
            (name, words) for name, words in WORDS.items() if dirty_unknown == (name == "cached")
        ],
        table=figure.table(results),
        notes=figure.notes(results),
        sentence=page.UNIT.sub("\N{NO-BREAK SPACE}", figure.sentence(results)),
        css=Markup(page.text("report.css") + _text("files.css")),
        script=page.script(page.text("static", "theme.js")),
        data=page.embed(results),
    )


def write(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page to `path` atomically. Raises OSError."""
    page.save(render(results), path)


def _text(name: str) -> str:
    return HERE.joinpath(name).read_text("utf-8")
