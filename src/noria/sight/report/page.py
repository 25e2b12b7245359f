"""The page of a recording: one self-contained HTML file that needs no network.

The page contains the numbers as JSON, and its scripts draw them. Findings are also rendered here,
so that they are visible without scripts.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Container, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from noria.sight.findings import Finding
from noria.sight.names import Names
from noria.sight.observation import Observation
from noria.sight.report.data import BUCKETS, LANES, LONGEST, SPANS, Lanes, page_data

if TYPE_CHECKING:
    from noria.sight.recording import Recording

HERE = files("noria.sight.report")

# The scripts in the order in which the page loads them. They share one global scope.
SCRIPTS = (
    "theme.js",
    "format.js",
    "patterns.js",
    "view.js",
    "lanes.js",
    "utilization.js",
    "timeline.js",
    "percentiles.js",
    "flame.js",
    "tables.js",
    "summary.js",
    "page.js",
)


def page(
    observation: Observation,
    findings: Sequence[Finding],
    timelines: Mapping[int, Lanes] | None = None,
    names: Mapping[int, Names] | None = None,
    *,
    title: str = "",
    live: float = 0,
) -> str:
    """Return the page as HTML.

    *timelines* is the result of `timelines_of`, *names* of Recording.names; without them the
    timeline is coarse. With *live*, the page fetches new numbers from `data`, relative to its
    address, each *live* seconds.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(lambda name: (HERE / name).read_text("utf-8")),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = page_data(observation, findings, timelines or {}, names or {})
    return environment.get_template("page.html.j2").render(
        title=title or observation.command or f"process {observation.pid}",
        style=Markup(style()),
        script=Markup(script()),
        data=Markup(encode(data)),
        live=live,
        findings=data["findings"],
    )


def style() -> str:
    """Return the style sheet."""
    return (HERE / "page.css").read_text("utf-8")


def script() -> str:
    """Return all scripts as one."""
    return "\n".join((HERE / "static" / name).read_text("utf-8") for name in SCRIPTS)


def security_policy() -> str:
    """Return a Content-Security-Policy (level 3) that allows what the page does, and no more."""
    return (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src '{_hash(script())}'; "
        f"style-src '{_hash(style())}'"
    )


def encode(data: Any) -> str:
    """Return JSON that may stand in a script element."""
    text = json.dumps(_finite(data), separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def timelines_of(recording: Recording, loops: Container[int]) -> dict[int, Lanes]:
    """Return the timelines of *loops* of a recording. Raises RecordingError."""
    from noria._core.recorder.timeline import Timeline

    found: dict[int, Lanes] = {}
    for loop, described in recording.loops().items():
        if loop not in loops:
            continue
        timeline = Timeline(described.get("header") or {}, recording.records(loop))
        if timeline.end > timeline.begin:
            found[loop] = timeline.lanes(
                buckets=BUCKETS, longest=LONGEST, tasks=LANES, connections=LANES, spans=SPANS
            )
    return found


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value


def _hash(text: str) -> str:
    """Return the source expression of an inline script or style (CSP level 3)."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
