"""Ratios computed from measurements: noria to uvloop, to the best peer, and to the goal."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from harness import LIMIT, median

from rows.row import BEST, UVLOOP, Row, Sample

BUSY = 0.9  # share of its core below which the server was not the limit
DISTURBED = 0.05  # share of waiting above which other processes are the reason


@dataclass
class Found:
    """The samples of one row by loop and round, and why loops were skipped."""

    row: Row
    samples: dict[str, dict[int, Sample]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def values(self, loop: str) -> dict[int, float]:
        """By round."""
        return {n: sample.value for n, sample in self.samples.get(loop, {}).items()}

    def middle(self, loop: str) -> float | None:
        """Return the median over the rounds."""
        return median(list(self.values(loop).values()))

    def busy(self, loop: str) -> float | None:
        """Return the share of time the process ran on its core, the median over the rounds."""
        shares = [s.busy for s in self.samples.get(loop, {}).values() if s.busy is not None]
        return median(shares)

    def last(self, loop: str) -> float | None:
        """Return the share of an upload's time after its last byte, the median over the rounds."""
        shares = [s.last for s in self.samples.get(loop, {}).values() if s.last is not None]
        return median(shares)

    def disturbed(self, loop: str) -> float:
        """Return the share of time other processes had either core, the median over the rounds."""
        samples = self.samples.get(loop, {}).values()
        return median([max(s.waiting or 0.0, s.load_waiting or 0.0) for s in samples]) or 0.0

    def not_busy(self) -> dict[str, float]:
        """Return the loops whose server was not the limit, so that their value means little."""
        if not self.row.driven:
            return {}
        shares = {loop: self.busy(loop) for loop in self.samples if loop != LIMIT}
        return {loop: share for loop, share in shares.items() if share is not None and share < BUSY}


@dataclass(frozen=True)
class Ratio:
    """The median, minimum and maximum of the rounds' ratios."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Row, mine: dict[int, float], other: dict[int, float]) -> Ratio | None:
        """Compare values of the same rounds; return None if no round has both."""
        each = [row.gain(mine[n], other[n]) for n in mine if other.get(n) and mine[n]]
        return cls(statistics.median(each), min(each), max(each)) if each else None


def is_noria(loop: str) -> bool:
    """Return whether the loop is noria, on its default model or a named one."""
    return loop.partition("-")[0] == "noria"


def base(found: Found) -> str | None:
    """Return the loop the row's values are relative to: uvloop, else one that has the row."""
    others = [loop for loop in found.samples if loop != LIMIT and not is_noria(loop)]
    return UVLOOP if UVLOOP in others else next(iter(others), None)


def best(found: Found) -> str | None:
    """Return the peer with the best median."""
    medians = {
        loop: middle
        for loop in found.samples
        if loop != LIMIT and not is_noria(loop) and (middle := found.middle(loop))
    }
    pick = min if found.row.less else max
    return pick(medians, key=lambda loop: medians[loop]) if medians else None


@dataclass(frozen=True)
class Verdict:
    """The result of one noria model in one row."""

    to_uvloop: Ratio | None
    to_best: Ratio | None
    best: str | None
    to_goal: Ratio | None  # what the goal is relative to

    @classmethod
    def of(cls, loop: str, found: Found, every: dict[str, Found]) -> Verdict:
        """Compute the verdict of a row; `every` resolves goals relative to another row."""
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
        """Return whether the goal is met; None if it was not measured."""
        return None if self.to_goal is None else self.to_goal.middle >= row.goal


def geometric_mean(ratios: list[Ratio | None]) -> float | None:
    """Return the geometric mean of the ratios that are not None."""
    logs = [math.log(ratio.middle) for ratio in ratios if ratio]
    return math.exp(statistics.fmean(logs)) if logs else None


def measurements(found: Found) -> dict[str, Any]:
    """Return every measurement of a row as JSON values."""
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
    """Return every measurement and the ratios computed from them as JSON values."""

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
                "none": found.unavailable,
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
