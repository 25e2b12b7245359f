"""From measurements to ratios: noria to uvloop, to the best peer, and to the goal."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from harness import LIMIT, median

from rows.row import BEST, UVLOOP, Row, Sample

BUSY = 0.9  # below this share of its core the server was not the limit
DISTURBED = 0.05  # above this share of the time other work is the reason


@dataclass
class Found:
    """What was measured of one row: by loop and round, or why there is nothing."""

    row: Row
    samples: dict[str, dict[int, Sample]] = field(default_factory=dict)
    none: dict[str, str] = field(default_factory=dict)

    def values(self, loop: str) -> dict[int, float]:
        """By round."""
        return {n: sample.value for n, sample in self.samples.get(loop, {}).items()}

    def middle(self, loop: str) -> float | None:
        """The median of the rounds."""
        return median(list(self.values(loop).values()))

    def busy(self, loop: str) -> float | None:
        """Which share of the time the process had its core: the median of the rounds."""
        shares = [s.busy for s in self.samples.get(loop, {}).values() if s.busy is not None]
        return median(shares)

    def last(self, loop: str) -> float | None:
        """Which share of an upload's time came after its last byte: the median of the rounds."""
        shares = [s.last for s in self.samples.get(loop, {}).values() if s.last is not None]
        return median(shares)

    def disturbed(self, loop: str) -> float:
        """Which share others had the core of the server or of the load: the rounds' median."""
        samples = self.samples.get(loop, {}).values()
        return median([max(s.waiting or 0.0, s.load_waiting or 0.0) for s in samples]) or 0.0

    def not_busy(self) -> dict[str, float]:
        """Those of which the figure says little: the load, or other work, was the limit."""
        if not self.row.driven:
            return {}
        shares = {loop: self.busy(loop) for loop in self.samples if loop != LIMIT}
        return {loop: share for loop, share in shares.items() if share is not None and share < BUSY}


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, and how far they lie apart."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Row, mine: dict[int, float], other: dict[int, float]) -> Ratio | None:
        """How many times better; both of the same round. None if they share no round."""
        each = [row.gain(mine[n], other[n]) for n in mine if other.get(n) and mine[n]]
        return cls(statistics.median(each), min(each), max(each)) if each else None


def is_noria(loop: str) -> bool:
    """noria on its default model or on one of choice."""
    return loop.partition("-")[0] == "noria"


def base(found: Found) -> str | None:
    """The loop that a row's figures are shown relative to: uvloop, or one that has the row."""
    others = [loop for loop in found.samples if loop != LIMIT and not is_noria(loop)]
    return UVLOOP if UVLOOP in others else next(iter(others), None)


def best(found: Found) -> str | None:
    """The peer with the best median."""
    medians = {
        loop: middle
        for loop in found.samples
        if loop != LIMIT and not is_noria(loop) and (middle := found.middle(loop))
    }
    pick = min if found.row.less else max
    return pick(medians, key=lambda loop: medians[loop]) if medians else None


@dataclass(frozen=True)
class Verdict:
    """One row's result for one noria."""

    to_uvloop: Ratio | None
    to_best: Ratio | None
    best: str | None
    to_goal: Ratio | None  # what the goal is compared with

    @classmethod
    def of(cls, loop: str, found: Found, every: dict[str, Found]) -> Verdict:
        """Of a row; the others are there for a goal that is relative to one of them."""
        row, mine = found.row, found.values(loop)
        ahead = best(found)
        to_uvloop = Ratio.of(row, mine, found.values(UVLOOP))
        to_best = Ratio.of(row, mine, found.values(ahead)) if ahead else None
        if row.against in (UVLOOP, BEST):
            to_goal = to_uvloop if row.against == UVLOOP else to_best
        else:
            beside = every.get(row.against)
            to_goal = Ratio.of(row, mine, beside.values(loop)) if beside else None
        return cls(to_uvloop, to_best, ahead, to_goal)

    def met(self, row: Row) -> bool | None:
        """Whether the goal is reached; None if that was not measured."""
        return None if self.to_goal is None else self.to_goal.middle >= row.goal


def geometric_mean(ratios: list[Ratio | None]) -> float | None:
    """Of those that there are."""
    logs = [math.log(ratio.middle) for ratio in ratios if ratio]
    return math.exp(statistics.fmean(logs)) if logs else None


def measurements(found: Found) -> dict[str, Any]:
    """Every measurement of a row."""
    return {
        loop: {
            "median": found.middle(loop),
            "busy": found.busy(loop),
            "disturbed": found.disturbed(loop),
            "was_the_limit": loop not in found.not_busy(),
            "measurements": [{"round": n} | asdict(sample) for n, sample in samples.items()],
        }
        for loop, samples in found.samples.items()
    }


def as_json(every: dict[str, Found], loops: list[str]) -> list[dict[str, Any]]:
    """Every measurement, and what follows from them."""

    def plain(ratio: Ratio | None) -> dict[str, float] | None:
        return {"median": ratio.middle, "low": ratio.low, "high": ratio.high} if ratio else None

    rows = []
    for name, found in every.items():
        verdicts = {loop: Verdict.of(loop, found, every) for loop in loops if is_noria(loop)}
        rows.append(
            {
                "row": name,
                "unit": found.row.unit,
                "lower_is_better": found.row.less,
                "goal": {"ratio": found.row.goal, "to": found.row.against},
                "loops": measurements(found),
                "none": found.none,
                "noria": {
                    loop: {
                        "to_uvloop": plain(verdict.to_uvloop),
                        "to_best": plain(verdict.to_best),
                        "best": verdict.best,
                        "to_goal": plain(verdict.to_goal),
                        "met": verdict.met(found.row),
                    }
                    for loop, verdict in verdicts.items()
                    if loop in found.samples
                },
            }
        )
    return rows
