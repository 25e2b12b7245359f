"""Ratios computed from measurements: noria to uvloop, to the best peer, and to the goal."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from harness import LIMIT

from noria.compare.loops.found import DISTURBED, Found
from noria.compare.loops.row import Row
from noria.compare.statistics import PairedRatio, paired_ratio
from rows import row as bench_row
from rows.row import BEST, UVLOOP

__all__ = ["DISTURBED", "Found", "PairedRatio", "Verdict", "compared"]


def compared(row: Row, mine: dict[int, float], other: dict[int, float]) -> PairedRatio | None:
    """Return how many times better `mine` is, by the rounds that have both; None without any.

    With too few rounds for a confidence interval, the interval is unlimited.
    """
    both = [n for n in mine if mine[n] and other.get(n)]
    if not both:
        return None
    ratios = [row.gain(mine[n], other[n]) for n in both]
    found = paired_ratio(ratios, [1.0] * len(ratios))
    return found or PairedRatio(statistics.median(ratios), 0.0, math.inf, len(ratios))


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

    to_uvloop: PairedRatio | None
    to_best: PairedRatio | None
    best: str | None
    to_goal: PairedRatio | None  # what the goal is relative to

    @classmethod
    def of(cls, loop: str, found: Found, every: dict[str, Found]) -> Verdict:
        """Compute the verdict of a row; `every` resolves goals relative to another row."""
        row, mine = found.row, found.values(loop)
        assert isinstance(row, bench_row.Row)
        ahead = best(found)
        to_uvloop = compared(row, mine, found.values(UVLOOP))
        to_best = compared(row, mine, found.values(ahead)) if ahead else None
        if row.against in (UVLOOP, BEST):
            to_goal = to_uvloop if row.against == UVLOOP else to_best
        else:
            beside = every.get(row.against)
            to_goal = compared(row, mine, beside.values(loop)) if beside else None
        return cls(to_uvloop, to_best, ahead, to_goal)

    def met(self, row: bench_row.Row) -> bool | None:
        """Return whether the goal is met; None if it was not measured."""
        return None if self.to_goal is None else self.to_goal.median >= row.goal


def geometric_mean(ratios: list[PairedRatio | None]) -> float | None:
    """Return the geometric mean of the ratios that are not None."""
    logs = [math.log(ratio.median) for ratio in ratios if ratio]
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

    def plain(ratio: PairedRatio | None) -> dict[str, float | None] | None:
        if ratio is None:
            return None
        known = math.isfinite(ratio.high)
        return {
            "median": ratio.median,
            "low": ratio.low if known else None,
            "high": ratio.high if known else None,
            "rounds": ratio.rounds,
        }

    rows = []
    for name, found in every.items():
        assert isinstance(found.row, bench_row.Row)
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
