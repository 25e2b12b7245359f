"""Writes `compare.html`: one self-contained file that needs no network.

The page contains the numbers as JSON, and its scripts draw the figures from them. The sentences and
tables are rendered here, so that they are visible without scripts.
"""

import contextlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from noria.compare.report import document, noise, sentences, spread_tables, tables

HERE = files("noria.compare.report")

FIGURES = {
    "throughput": ("Throughput", "How many messages per second, and what does one cost?"),
    "phases": ("The two phases", "Who waits for the data, and who copies it?"),
    "waiting": ("Waiting clients", "Ten connect at once: when does each receive its first answer?"),
    "idle": ("Idle connections", "What do connections cost that send nothing?"),
    "triggers": ("Level and edge", "The same data stays unread: how many polls report it?"),
}
"""Each figure's heading and its question."""

LIBRARIES = ("d3.min.js", "plot.umd.min.js")
DRAWING = ("theme.js", "data.js", "format.js", "drawing.js", "axis.js", "spread.js", "rows.js")
"""The scripts that every page with figures loads first."""

SCRIPTS = (
    *DRAWING,
    "noise.js",
    "throughput.js",
    "phases.js",
    "waiting.js",
    "idle.js",
    "triggers.js",
    "figures.js",
    "page.js",
)
"""The scripts in the order in which the page loads them. They share one global scope."""

READING = (
    "A mark is the median of the rounds, and a whisker goes from the lowest to the highest round. "
    "Where whiskers overlap, the difference may be chance; the sentences state only differences in "
    "which the rounds agree.",
    "An axis begins at 0 and is linear if at least half of its values reach a tenth of its length. "
    "Otherwise it is logarithmic, so that one large value does not flatten the others; bars need a "
    "zero, so their axis is broken instead, and a bar that is cut has its value beside it.",
)
"""How to read the figures, a paragraph each. static/axis.js has the rule of the axes."""

UNIT = re.compile(r"(?<=\d) (?=(?:µs|ms|KiB|MiB|GiB)\b)")


def render(results: dict[str, Any]) -> str:
    """Return the page for the document of one comparison, which may be incomplete."""
    asked = results.get("only") or sentences.FIGURES
    return template("report.html.j2").render(
        header=header(results),
        sample=results.get("sample"),
        models=document.models(results),
        kinds=_kinds(results),
        reading=READING,
        noise=noise_figure(results),
        figures=[
            figure(
                name,
                FIGURES[name][0],
                _question(results, name),
                sentence(results),
                _tables(results, name),
            )
            for name, sentence in sentences.FIGURES.items()
            if name in asked
        ],
        css=Markup(text("report.css")),
        scripts=scripts(SCRIPTS),
        licences=licences(),
        data=embed(results),
    )


def figure(
    name: str, title: str, question: str, sentence: str, shown: Iterable[tables.Table]
) -> dict[str, Any]:
    """A figure for the template; `shown` are the tables under "The numbers"."""
    return {
        "name": name,
        "title": title,
        "question": question,
        "sentence": UNIT.sub("\N{NO-BREAK SPACE}", sentence),
        "tables": [table for table in shown if not table.empty],
    }


def noise_figure(results: dict[str, Any]) -> dict[str, Any] | None:
    """The figure of the machine's noise; None if it was not measured."""
    if not noise.measured(results):
        return None
    return figure(
        "noise", noise.TITLE, noise.QUESTION, noise.sentence(results), noise.tables(results)
    )


def scripts(names: Iterable[str]) -> list[Markup]:
    """The libraries and the scripts of this directory, in the order in which a page loads them."""
    return [
        *(script(text("vendor", name)) for name in LIBRARIES),
        *(script(text("static", name)) for name in names),
    ]


def licences() -> list[tuple[str, str]]:
    """The licences of the libraries, by name."""
    return [(name, text("vendor", f"LICENSE.{name}").strip()) for name in ("d3", "plot")]


def template(name: str) -> Template:
    """A template of this directory."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(text),
    )
    return environment.get_template(name)


def write(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the page to `path` atomically. Raise OSError if the directory is not writable."""
    save(render(results), path)


def save(page: str, path: str | os.PathLike[str]) -> None:
    """Write the text `page` to `path` atomically."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(page)
        # mkstemp makes a private file; the page gets the permissions of other new files.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def embed(results: dict[str, Any]) -> Markup:
    """The document as JSON for a script element: `<`, `>` and `&` are escaped."""
    written = json.dumps(_finite(results), ensure_ascii=False, allow_nan=False, default=str)
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return Markup(written)


def text(*parts: str) -> str:
    """The text of a file in this module's directory."""
    return HERE.joinpath(*parts).read_text("utf-8")


def script(source: str) -> Markup:
    """The script as markup; raise ValueError if it would end its own element."""
    if re.search(r"</script|<!--", source, re.IGNORECASE):
        raise ValueError("the script contains '</script' or '<!--', which would end its element")
    return Markup(source)


def _finite(value: Any) -> Any:
    """The data with None for infinite numbers and NaN, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def header(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Machine, versions, date and command as pairs (label, value), without unknown values."""
    kind = {True: "quick", False: "full"}.get(results.get("quick"), "")  # type: ignore[arg-type]
    pairs = [
        ("machine", results.get("machine")),
        ("kernel", results.get("kernel")),
        ("Python", results.get("python")),
        ("noria", results.get("noria")),
        ("date", _date(results.get("date"))),
        ("run", kind),
        ("command", results.get("command")),
    ]
    return [(word, str(value)) for word, value in pairs if value]


def _date(value: Any) -> str:
    try:
        return f"{datetime.fromisoformat(str(value)):%d %B %Y, %H:%M %Z}".lstrip("0")
    except ValueError:
        return str(value or "")


def _question(results: dict[str, Any], name: str) -> str:
    clients = document.number(document.section(results, "waiting"), "clients")
    if name == "waiting" and clients and clients != 10:
        return f"{clients:,.0f} connect at once: when does each receive its first answer?"
    return FIGURES[name][1]


def _tables(results: dict[str, Any], name: str) -> list[tables.Table]:
    """The tables of a figure, with those of its rounds."""
    shown = tables.of_figure(results, name)
    if name == "throughput":
        shown.append(tables.syscalls(results))
    return [*shown, *spread_tables.of_figure(results, name)]


def _kinds(results: dict[str, Any]) -> list[str]:
    """All capabilities of the models, in order of first appearance."""
    kinds: dict[str, None] = {}
    for model in document.models(results):
        kinds.update(dict.fromkeys(model.get("capabilities") or {}))
    return list(kinds)
