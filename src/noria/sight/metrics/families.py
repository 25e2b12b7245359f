"""Metric families of prometheus_client from the totals of worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from noria.sight.metrics.bus_families import bus_families
from noria.sight.metrics.readings import (
    BLOCKED,
    BLOCKS,
    BOUNDS,
    COUNTERS,
    EXCEPTIONS,
    GAUGES,
    HISTOGRAMS,
    SECOND,
    Definition,
)
from noria.sight.metrics.totals import LoopTotals

LABELS = ("worker", "loop", "model")


@dataclass(frozen=True)
class WorkerTotals:
    """The totals of one process, as they are shown."""

    pid: int
    answering: bool
    noria: str
    python: str
    loops: list[LoopTotals]
    # noria.bus.figures
    buses: list[dict[str, Any]] = field(default_factory=list)


def families(workers: Iterable[WorkerTotals]) -> Iterator[Metric]:
    """Return all families; each is there without samples too, for checks of duplicate names."""
    workers = list(workers)
    loops = [(str(worker.pid), totals) for worker in workers for totals in worker.loops]
    info = InfoMetricFamily("noria", "Versions of noria and Python.", labels=("worker",))
    up = GaugeMetricFamily(
        "noria_worker_answering",
        "1 if the process answers, 0 if it is stopped or C code holds the GIL.",
        labels=("worker",),
    )
    for worker in workers:
        versions = {"version": worker.noria, "python": worker.python}
        info.add_metric([str(worker.pid)], versions)
        up.add_metric([str(worker.pid)], worker.answering)
    yield info
    yield up
    yield _utilization(loops)
    for definition in GAUGES:
        yield _gauge(definition, loops)
    for definition in (*COUNTERS, BLOCKS, BLOCKED, EXCEPTIONS):
        yield _counter(definition, loops)
    for histogram in HISTOGRAMS:
        family = HistogramMetricFamily(
            histogram.name, histogram.help, labels=LABELS, unit="seconds"
        )
        for worker_label, totals in loops:
            read = totals.histograms[histogram.name]
            family.add_metric(
                _labels(worker_label, totals), _buckets(read.counts), read.total / SECOND
            )
        yield family
    yield from bus_families([(str(worker.pid), worker.buses) for worker in workers])


def _labels(worker: str, totals: LoopTotals) -> list[str]:
    return [worker, str(totals.number), totals.model]


def _utilization(loops: list[tuple[str, LoopTotals]]) -> Metric:
    family = GaugeMetricFamily(
        "noria_loop_utilization_ratio",
        "Share of time that the loop was not asleep, over the last 10 s or since the last scrape.",
        labels=LABELS,
        unit="ratio",
    )
    for worker, totals in loops:
        family.add_metric(_labels(worker, totals), totals.utilization)
    return family


def _gauge(definition: Definition, loops: list[tuple[str, LoopTotals]]) -> Metric:
    family = GaugeMetricFamily(
        definition.name, definition.help, labels=_label_names(definition), unit=definition.unit
    )
    for worker, totals in loops:
        for (name, label), value in sorted(totals.gauges.items()):
            if name == definition.name:
                family.add_metric(_label_values(definition, worker, totals, label), value)
    return family


def _counter(definition: Definition, loops: list[tuple[str, LoopTotals]]) -> Metric:
    family = CounterMetricFamily(
        definition.name, definition.help, labels=_label_names(definition), unit=definition.unit
    )
    scale = SECOND if definition.unit == "seconds" else 1
    for worker, totals in loops:
        for (name, label), value in sorted(totals.counters.items()):
            if name == definition.name:
                labels = _label_values(definition, worker, totals, label)
                family.add_metric(labels, value / scale if scale != 1 else value)
    return family


def _label_names(definition: Definition) -> list[str]:
    return [*LABELS, *([definition.label] if definition.label else [])]


def _label_values(definition: Definition, worker: str, totals: LoopTotals, label: str) -> list[str]:
    return [*_labels(worker, totals), *([label] if definition.label else [])]


def _buckets(counts: list[int]) -> list[tuple[str, float]]:
    """Return cumulative buckets with their upper bounds in seconds."""
    bounds = (*(floatToGoString(bound / SECOND) for bound in BOUNDS), "+Inf")
    return list(zip(bounds, accumulate(counts), strict=True))
