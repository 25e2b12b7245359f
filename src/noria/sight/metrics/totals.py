"""The sums that metrics show: they never decrease, and their number is bounded.

A program may make thousands of loops, one after the other (each asyncio.run). A loop gets the
lowest number that no open loop of its model has, and continues the sums of that number.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass, field

from noria.sight.metrics.readings import (
    BLOCKED,
    BLOCKS,
    BOUNDS,
    COUNTERS,
    EXCEPTIONS,
    GAUGES,
    HISTOGRAMS,
    MAX_LABEL_VALUES,
    bucket_counts,
)
from noria.sight.observation import Distribution, LoopFigures, Observation

MAX_LOOPS = 64  # numbers; further loops that are open at once are added up as the last one
UTILIZATION_WINDOW = 10_000_000_000  # ns

# A counter's name and the value of its own label ("" without one).
Key = tuple[str, str]


@dataclass
class HistogramTotals:
    """The buckets of a histogram, not cumulative, and the sum in ns."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: int = 0


@dataclass
class LoopTotals:
    """The sums of all loops that have had this number and model."""

    number: int
    model: str
    counters: dict[Key, int] = field(default_factory=dict)
    gauges: dict[Key, int] = field(default_factory=dict)
    histograms: dict[str, HistogramTotals] = field(
        default_factory=lambda: {each.name: HistogramTotals() for each in HISTOGRAMS}
    )
    utilization: float = 0.0


@dataclass
class _Loop:
    """What was read of a loop the last time."""

    totals: LoopTotals
    closed: bool = False
    counters: dict[Key, int] = field(default_factory=dict)
    histograms: dict[str, HistogramTotals] = field(default_factory=dict)
    blocks: dict[int, int] = field(default_factory=dict)  # durations by beginning
    exceptions: dict[tuple[str, str, str], int] = field(default_factory=dict)
    # (time, busy, waiting), the latest last
    usage: deque[tuple[int, int, int]] = field(default_factory=deque)


class Totals:
    """The sums of one process. `add` its observations in their order."""

    def __init__(self) -> None:
        self.loops: list[LoopTotals] = []
        self._loops: dict[int, _Loop] = {}

    def add(self, observation: Observation) -> None:
        """Add what is new since the observation before."""
        for totals in self.loops:
            totals.gauges = {(each.name, ""): 0 for each in GAUGES if not each.label}
            totals.utilization = 0.0
        present = {figures.id for figures in observation.loops}
        self._loops = {number: loop for number, loop in self._loops.items() if number in present}
        for figures in observation.loops:
            if figures.closed and figures.id in self._loops:
                self._loops[figures.id].closed = True
        for figures in sorted(observation.loops, key=lambda each: each.id):
            if figures.id not in self._loops:
                totals = self._free_totals(figures.model)
                self._loops[figures.id] = _Loop(totals, figures.closed)
            _add_loop(self._loops[figures.id], figures)

    def _free_totals(self, model: str) -> LoopTotals:
        """Return the sums with the lowest number that no open loop of this model has."""
        used = {
            loop.totals.number
            for loop in self._loops.values()
            if loop.totals.model == model and not loop.closed
        }
        of_model = {totals.number: totals for totals in self.loops if totals.model == model}
        number = next((each for each in range(MAX_LOOPS) if each not in used), MAX_LOOPS - 1)
        if number not in of_model:
            of_model[number] = LoopTotals(number, model)
            self.loops.append(of_model[number])
        return of_model[number]


def _add_loop(loop: _Loop, figures: LoopFigures) -> None:
    totals = loop.totals
    for definition in COUNTERS:
        for label, value in definition.values(figures).items():
            key = (definition.name, label)
            _add_counter(totals, key, value - loop.counters.get(key, 0))
            loop.counters[key] = max(value, loop.counters.get(key, 0))
    for histogram in HISTOGRAMS:
        _add_histogram(loop, histogram.name, histogram.read(figures))
    _add_blocks(loop, figures)
    _add_exceptions(loop, figures)
    if figures.closed:
        return
    for definition in GAUGES:
        for label, value in definition.values(figures).items():
            key = (definition.name, label)
            totals.gauges[key] = totals.gauges.get(key, 0) + value
    totals.utilization = max(totals.utilization, _utilization(loop, figures))


def _add_counter(totals: LoopTotals, key: Key, increase: int) -> None:
    """Add to a counter; a definition's label has at most MAX_LABEL_VALUES values."""
    if key not in totals.counters:
        values = sum(name == key[0] for name, _ in totals.counters)
        if values >= MAX_LABEL_VALUES:
            key = (key[0], "other")
    totals.counters[key] = totals.counters.get(key, 0) + max(increase, 0)


def _add_histogram(loop: _Loop, name: str, distribution: Distribution) -> None:
    before = loop.histograms.get(name) or HistogramTotals()
    now = HistogramTotals(bucket_counts(distribution), distribution.total)
    into = loop.totals.histograms[name]
    for at, count in enumerate(now.counts):
        into.counts[at] += max(count - before.counts[at], 0)
    into.total += max(now.total - before.total, 0)
    loop.histograms[name] = now


def _add_blocks(loop: _Loop, figures: LoopFigures) -> None:
    """Add blocks that are new, and what was added to those that are known.

    The beginning of a block that lasts is not exact: a block that overlaps a known one is the same.
    """
    known, loop.blocks = sorted(loop.blocks.items()), {}
    starts = [started for started, _ in known]
    blocked = new = 0
    for block in figures.blocks:
        at = bisect.bisect_left(starts, block.started + block.duration) - 1
        before = known[at][1] if at >= 0 and sum(known[at]) > block.started else None
        new += before is None
        blocked += max(block.duration - (before or 0), 0)
        loop.blocks[block.started] = max(block.duration, before or 0)
    _add_counter(loop.totals, (BLOCKS.name, ""), new)
    _add_counter(loop.totals, (BLOCKED.name, ""), blocked)


def _add_exceptions(loop: _Loop, figures: LoopFigures) -> None:
    known, loop.exceptions = loop.exceptions, {}
    for error in figures.errors:
        place = (error.kind.replace(" ", "_"), error.type, str(error.place))
        loop.exceptions[place] = loop.exceptions.get(place, 0) + error.count
    for kind in ("callback", "task_never_retrieved", "task_destroyed_pending"):
        _add_counter(loop.totals, (EXCEPTIONS.name, kind), 0)
    for place, count in loop.exceptions.items():
        _add_counter(loop.totals, (EXCEPTIONS.name, place[0]), count - known.get(place, 0))


def _utilization(loop: _Loop, figures: LoopFigures) -> float:
    """Return the share of time that the loop was not asleep, over UTILIZATION_WINDOW or more.

    Only observations are known: it is more if there was none at the window's beginning.
    """
    usage = loop.usage
    while len(usage) > 1 and figures.end - usage[1][0] >= UTILIZATION_WINDOW:
        usage.popleft()
    before = usage[0] if usage else (figures.begin, 0, 0)
    if not usage or figures.end > usage[-1][0]:
        usage.append((figures.end, figures.busy, figures.waiting))
    busy, waiting = figures.busy - before[1], figures.waiting - before[2]
    return busy / (busy + waiting) if busy + waiting > 0 and busy >= 0 else 0.0
