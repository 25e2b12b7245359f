"""Counters and histograms of a bus, which metrics and summaries read."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

# Upper bounds of the buckets, in seconds; one more bucket is for what is longer.
SECONDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)


class Histogram:
    """Counts of seconds in fixed buckets, with their sum."""

    __slots__ = ("count", "counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.count += 1
        self.sum += seconds

    def add(self, other: Histogram) -> None:
        """Add the values of another histogram."""
        self.counts = [mine + more for mine, more in zip(self.counts, other.counts, strict=True)]
        self.count += other.count
        self.sum += other.sum

    def quantile(self, share: float) -> float | None:
        """Return the upper bound of the bucket in which the quantile lies; None without values.

        The last bucket has no bound: infinity.
        """
        if not self.count:
            return None
        seen = 0
        for bound, count in zip((*SECONDS, float("inf")), self.counts, strict=True):
            seen += count
            if seen >= share * self.count:
                return bound
        return float("inf")

    def as_dict(self) -> dict[str, Any]:
        buckets = dict(zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True))
        return {"count": self.count, "sum": self.sum, "buckets": buckets}


class HandlerStats:
    """Of one subscription: events `handled` successfully, `failed` runs, and what became of these.

    `seconds`: of the handlers' runs.
    """

    __slots__ = ("dead", "failed", "handled", "in_flight", "lost", "retried", "returned", "seconds")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.handled = 0
        self.failed = 0
        # Failed runs that are repeated.
        self.retried = 0
        # Events that went to the dead letters.
        self.dead = 0
        # Events returned to the group when the bus drained.
        self.returned = 0
        # Claims that ended here before the handler did.
        self.lost = 0
        # Events claimed and not yet acknowledged.
        self.in_flight = 0
        self.seconds = Histogram()

    def add(self, other: HandlerStats) -> None:
        """Add what another subscription has done."""
        for name in self.__slots__:
            if name != "seconds":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seconds.add(other.seconds)

    def as_dict(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in self.__slots__ if name != "seconds"}
        return {**counts, "seconds": self.seconds.as_dict()}


class PublishStats:
    """Of a bus: events that the broker confirmed, those that failed, and the seconds until then."""

    __slots__ = ("batches", "failed", "published", "seconds")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all counts to 0."""
        self.published = 0
        self.failed = 0
        # Round trips to the broker.
        self.batches = 0
        self.seconds = Histogram()

    def add(self, other: PublishStats) -> None:
        """Add what another bus has published."""
        self.published += other.published
        self.failed += other.failed
        self.batches += other.batches
        self.seconds.add(other.seconds)

    def as_dict(self) -> dict[str, Any]:
        return {
            "published": self.published,
            "failed": self.failed,
            "batches": self.batches,
            "seconds": self.seconds.as_dict(),
        }
