"""Writes metrics in the format that a scraper accepts."""

from __future__ import annotations

from prometheus_client import exposition as text
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector


def write(registry: Collector, accept: str) -> tuple[bytes, str]:
    """Return the metrics of `registry` and their content type.

    The format is OpenMetrics 1.0.0 if `accept`, the Accept header, names it, otherwise Prometheus'
    text format 0.0.4.
    """
    types = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    if "application/openmetrics-text" in types:
        return openmetrics.generate_latest(registry), openmetrics.CONTENT_TYPE_LATEST
    return text.generate_latest(registry), text.CONTENT_TYPE_PLAIN_0_0_4
