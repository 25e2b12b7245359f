"""A Prometheus registry with the metrics of given workers."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from noria.sight.metrics.families import WorkerTotals, families


class FixedWorkers:
    """A collector of workers whose totals do not change."""

    def __init__(self, workers: Iterable[WorkerTotals]) -> None:
        self.workers = list(workers)

    def collect(self) -> Iterable[Metric]:
        return families(self.workers)


def registry_of_workers(workers: Iterable[WorkerTotals]) -> CollectorRegistry:
    """Return a registry that collects the metrics of the workers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FixedWorkers(workers))
    return registry
