"""What workers have done, for the summary."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from noria.bus.bus import Bus
from noria.bus.handler import Registration
from noria.bus.stats import Histogram

COUNTS = ("handled", "failed", "retried", "dead", "returned", "lost")


@dataclass
class HandlerTotals:
    """The totals of a handler over all workers; `buckets` and `seconds` are as in a Histogram."""

    type: str
    group: str | None
    handler: str
    handled: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    returned: int = 0
    lost: int = 0
    buckets: list[int] = field(default_factory=lambda: Histogram().counts)
    seconds: float = 0.0

    @classmethod
    def of(cls, registration: Registration) -> HandlerTotals:
        """Return the totals of a handler in this process."""
        stats = registration.stats
        counts = {name: getattr(stats, name) for name in COUNTS}
        return cls(
            registration.type,
            registration.group,
            registration.name,
            **counts,
            buckets=list(stats.seconds.counts),
            seconds=stats.seconds.sum,
        )

    def add(self, other: HandlerTotals) -> None:
        """Add the totals of another worker."""
        for name in (*COUNTS, "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.buckets = [mine + more for mine, more in zip(self.buckets, other.buckets, strict=True)]

    def quantile(self, share: float) -> float | None:
        """Return seconds within which this share of the runs has ended, as a bucket's bound."""
        histogram = Histogram()
        histogram.counts, histogram.count = self.buckets, sum(self.buckets)
        return histogram.quantile(share)


@dataclass
class WorkTotals:
    """The totals of a bus over all workers.

    `broker`: its URL. `abandoned`: tasks that ignored their cancellation at the end.
    """

    broker: str = ""
    published: int = 0
    publish_failures: int = 0
    handlers: list[HandlerTotals] = field(default_factory=list)
    abandoned: int = 0

    @classmethod
    def of(cls, bus: Bus) -> WorkTotals:
        """Return the totals of a bus in this process."""
        handlers = [HandlerTotals.of(each) for each in bus.registrations]
        return cls(bus.url.shown, bus.stats.published, bus.stats.failed, handlers)

    def sum(self, name: str) -> int:
        """Return one of COUNTS over all handlers."""
        return sum(getattr(each, name) for each in self.handlers)

    def add(self, other: WorkTotals) -> None:
        """Add the totals of another worker, whose handlers may differ after a reload."""
        self.broker = other.broker
        self.published += other.published
        self.publish_failures += other.publish_failures
        self.abandoned += other.abandoned
        known = {(each.type, each.group, each.handler): each for each in self.handlers}
        for each in other.handlers:
            found = known.get((each.type, each.group, each.handler))
            if found is None:
                self.handlers.append(each)
            else:
                found.add(each)

    def encode(self) -> bytes:
        """Return the totals in JSON, for the parent process."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> WorkTotals:
        """Return what `encode` has encoded."""
        fields = json.loads(encoded)
        handlers = [HandlerTotals(**each) for each in fields.pop("handlers")]
        return cls(**fields, handlers=handlers)
