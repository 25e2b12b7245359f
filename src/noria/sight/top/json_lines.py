"""A view as one object of JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from noria.sight.observation import Distribution
from noria.sight.top.rates import LoopRates
from noria.sight.top.session import View

# Figures of LoopRates that are not numbers, or that belong to the tables of the terminal.
_TABLES = ("codes", "timer_codes", "job_codes", "tasks", "connections", "collections")


def view_json(view: View) -> str:
    """Return a view in one line.

    The keys are the fields of noria.sight.observation.Observation. In addition, each loop has
    "utilization", "calls_per_event" and "rates" (the figures since the line before, durations as
    percentiles in ns); the object has "findings" and "ended".
    """
    whole = dataclasses.asdict(view.observation)
    for loop, figures in zip(view.observation.loops, whole["loops"], strict=True):
        figures["utilization"] = round(loop.utilization, 6)
        figures["calls_per_event"] = round(loop.calls_per_event, 6)
        figures["rates"] = _rates(view.rates[loop.id])
    whole["findings"] = [dataclasses.asdict(finding) for finding in view.findings]
    whole["ended"] = view.ended
    return json.dumps(whole, separators=(",", ":"))


def _rates(rates: LoopRates) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(rates):
        if field.name in _TABLES:
            continue
        value = getattr(rates, field.name)
        if isinstance(value, Distribution):
            found[field.name] = {
                "count": value.count,
                **{f"p{percent}": value.percentile(percent) for percent in (50, 90, 99)},
                "longest": value.longest,
            }
        else:
            found[field.name] = round(value, 6)
    found["gc_share"] = round(rates.gc_share, 6)
    return found
