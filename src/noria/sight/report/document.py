"""A recording's figures as one object of JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from noria.sight.findings import Finding
from noria.sight.observation import Distribution, Observation

PERCENTILES = (50, 90, 99, 99.9)


def document(observation: Observation, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return an observation and its findings with keys as in `noria top --json`.

    The keys are the fields of noria.sight.observation.Observation, durations are in ns. In
    addition, loops have "utilization" and "calls_per_event", distributions "mean", "p50", "p90",
    "p99" and "p99.9"; the object has "findings".
    """
    whole: dict[str, Any] = _plain(observation)
    for figures, loop in zip(observation.loops, whole["loops"], strict=True):
        loop["utilization"] = round(figures.utilization, 6)
        loop["calls_per_event"] = round(figures.calls_per_event, 6)
    whole["findings"] = [finding.as_dict() for finding in findings]
    return whole


def percentiles(distribution: Distribution) -> dict[str, float]:
    """Return the mean and some percentiles in ns."""
    found = {f"p{percent:g}": distribution.percentile(percent) for percent in PERCENTILES}
    return {"mean": round(distribution.mean, 1), **found}


def _plain(value: Any) -> Any:
    """Return dataclasses as dicts, also in lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return {**found, **percentiles(value)} if isinstance(value, Distribution) else found
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
