"""A Grafana dashboard for noria's metrics: ``python -m noria.sight.grafana > noria.json``."""

from __future__ import annotations

import importlib.resources


def dashboard() -> str:
    """Return the dashboard as JSON, to be imported in Grafana 10 or newer."""
    file = importlib.resources.files("noria.sight.grafana") / "noria.json"
    return file.read_text(encoding="utf-8")
