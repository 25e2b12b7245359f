"""Metric families of the buses of worker processes, from noria.bus.figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

BUS_LABELS = ("worker", "broker")
HANDLER_LABELS = (*BUS_LABELS, "type", "group")
# The broker's figures are the same in each worker.
GROUP_LABELS = ("broker", "type", "group")

# (key in the figures, name, help)
PUBLISH_COUNTERS = (
    ("published", "noria_bus_events_published", "Events that the broker has confirmed."),
    (
        "failed",
        "noria_bus_publish_failures",
        "Events that were not confirmed in time, or that the broker refused.",
    ),
    ("batches", "noria_bus_publish_batches", "Round trips to the broker with events."),
)
HANDLER_COUNTERS = (
    ("handled", "noria_bus_events_handled", "Events whose handler has returned."),
    (
        "failed",
        "noria_bus_handler_failures",
        "Runs of handlers that raised an exception or were cancelled.",
    ),
    ("retried", "noria_bus_events_retried", "Failed runs after which the event is retried."),
    ("dead", "noria_bus_dead_letters", "Events that became dead letters."),
    (
        "returned",
        "noria_bus_events_returned",
        "Events given back to their group when the worker drained.",
    ),
    (
        "lost",
        "noria_bus_claims_lost",
        "Claims that ended before the handler did: another worker has the event.",
    ),
)
GROUP_GAUGES = (
    ("waiting", "noria_bus_group_events_waiting", "Events that no worker of the group has taken."),
    (
        "in_flight",
        "noria_bus_group_events_in_flight",
        "Events that workers of the group have taken and not acknowledged, and retries.",
    ),
    ("delayed", "noria_bus_group_events_delayed", "Events of the type whose delay is not over."),
)

# (process id, figures of its buses)
Workers = Iterable[tuple[str, list[dict[str, Any]]]]


def bus_families(workers: Workers) -> Iterator[Metric]:
    """Return all families of buses; each is there without samples too."""
    workers = list(workers)
    buses = [((worker, bus["broker"]), bus) for worker, found in workers for bus in found]
    handlers = [
        ((*labels, handler["type"], handler["group"] or ""), handler)
        for labels, bus in buses
        for handler in bus["handlers"]
    ]
    for key, name, text in PUBLISH_COUNTERS:
        family = CounterMetricFamily(name, text, labels=BUS_LABELS)
        for labels, bus in buses:
            family.add_metric(labels, bus["published"][key])
        yield family
    yield _histogram(
        "noria_bus_publish_seconds",
        "Time from emit to the broker's confirmation.",
        BUS_LABELS,
        [(labels, bus["published"]["seconds"]) for labels, bus in buses],
    )
    for key, name, text in HANDLER_COUNTERS:
        family = CounterMetricFamily(name, text, labels=HANDLER_LABELS)
        for values, handler in handlers:
            family.add_metric(values, handler[key])
        yield family
    in_flight = GaugeMetricFamily(
        "noria_bus_events_in_flight",
        "Events that this worker has taken and not acknowledged.",
        labels=HANDLER_LABELS,
    )
    for values, handler in handlers:
        in_flight.add_metric(values, handler["in_flight"])
    yield in_flight
    yield _histogram(
        "noria_bus_handler_seconds",
        "Duration of a handler's run, its waiting included.",
        HANDLER_LABELS,
        [(values, handler["seconds"]) for values, handler in handlers],
    )
    yield from _group_gauges(bus for _, bus in buses)


def _group_gauges(buses: Iterable[dict[str, Any]]) -> Iterator[Metric]:
    rows = {
        (bus["broker"], row["type"], row["group"] or ""): row
        for bus in buses
        for row in bus["lag"] or ()
    }
    for key, name, text in GROUP_GAUGES:
        family = GaugeMetricFamily(name, text, labels=GROUP_LABELS)
        for labels, row in sorted(rows.items()):
            if row[key] is not None:
                family.add_metric(labels, row[key])
        yield family


def _histogram(
    name: str,
    text: str,
    labels: tuple[str, ...],
    samples: list[tuple[tuple[str, ...], dict[str, Any]]],
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels, unit="seconds")
    for values, histogram in samples:
        counts = histogram["buckets"]
        cumulative = list(zip(counts, accumulate(counts.values()), strict=True))
        family.add_metric(values, cumulative, histogram["sum"])
    return family
