"""The spread of repeated measurements, and the rule by which a difference counts as measured.

Rounds are paired: round r measures all candidates shortly after each other, so that a machine that
is slower in one round is slower for all of them. Two candidates are compared by the logarithms of
their ratios, one per round. Their difference is claimed if the 97% confidence interval of the mean
ratio lies wholly beyond the ratio by which equal things differ here. It is 97% and not 95%, so that
fewer than 1 of 20 claims about equal things are false even where the fastest of eight was picked
after the measurement.

The interval is that of Tukey and McLaughlin (Sankhya A 25, 1963, pp. 331-352; also Wilcox,
Introduction to Robust Estimation and Hypothesis Testing, section 4.3): a fifth of the rounds is
trimmed at each end, the standard error comes from the winsorized variance, and Student's t has the
degrees of freedom of the rounds that are left. So one disturbed round of 5 to 9 changes neither the
mean nor the interval much. A sign test or a permutation test cannot reach 5% with 5 rounds at all.
docs/compare.md says how often the rule is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

SMALLEST_EFFECT = 1.05
"""Ratio up to which a difference is not claimed: two processes of one server may differ for as long
as they live, which no number of rounds shows."""

MIN_ROUNDS = 5
"""With fewer, the trimmed mean of two or three values has no usable interval."""

TRIMMED_SHARE = 0.2
"""Share of the rounds that is trimmed at each end, rounded down; at least one round."""

T_985 = (21.205, 5.643, 3.896, 3.298, 3.003, 2.829, 2.715, 2.634, 2.574, 2.527, 2.491, 2.461)
"""Student's t, 98.5% quantile, for 1, 2, … degrees of freedom."""


@dataclass(frozen=True)
class Spread:
    """The rounds of one measurement."""

    median: float
    lowest: float
    highest: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return the spread of the rounds that were measured; None if there are none."""
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    return Spread(median(measured), min(measured), max(measured))


@dataclass(frozen=True)
class PairedRatio:
    """The ratio of two candidates over the rounds that measured both."""

    median: float
    low: float
    """Lower end of the 97% confidence interval."""

    high: float
    """Upper end of the 97% confidence interval."""

    rounds: int
    """Number of rounds that measured both."""

    def claim(self, noise: float = 1.0) -> Literal["higher", "lower"] | None:
        """Return which the first candidate is; None if no difference could be measured.

        `noise`: the ratio by which a server differs from itself on this machine, at least 1.
        """
        band = max(noise, 1 / noise, SMALLEST_EFFECT)
        if self.low > band:
            return "higher"
        if self.high < 1 / band:
            return "lower"
        return None


def paired_ratio(
    values: Sequence[float | None], others: Sequence[float | None]
) -> PairedRatio | None:
    """Return the ratio of `values` to `others`, which have one number per round.

    Rounds without one of the two numbers, or with a number that is not positive, are skipped. None
    if fewer than MIN_ROUNDS are left.
    """
    logs = sorted(
        math.log(value / other)
        for value, other in zip(values, others, strict=False)
        if value is not None and other is not None and value > 0 and other > 0
    )
    rounds = len(logs)
    if rounds < MIN_ROUNDS:
        return None
    trimmed = max(1, int(TRIMMED_SHARE * rounds))
    kept = logs[trimmed:-trimmed]
    centre = math.fsum(kept) / len(kept)
    winsorized = [min(max(log, kept[0]), kept[-1]) for log in logs]
    mean = math.fsum(winsorized) / rounds
    variance = math.fsum((log - mean) ** 2 for log in winsorized) / (rounds - 1)
    error = math.sqrt(variance / rounds) / (1 - 2 * trimmed / rounds)
    half = _t_985(len(kept) - 1) * error
    middle = median(logs)
    return PairedRatio(
        median=math.exp(middle),
        low=math.exp(min(centre - half, middle)),
        high=math.exp(max(centre + half, middle)),
        rounds=rounds,
    )


Best = Literal["highest", "lowest"]


def ratios_to_best(
    rounds: Mapping[str, Sequence[float | None]], best: Best = "highest"
) -> dict[str, PairedRatio | None]:
    """Return each candidate's ratio to the one with the best median, in the order of medians.

    The first is that candidate itself, with None; None for others means too few common rounds.
    Candidates with fewer than MIN_ROUNDS rounds come last, those without any are skipped.
    """
    found = {name: spread(values) for name, values in rounds.items()}
    medians = {name: each.median for name, each in found.items() if each is not None}
    ranked = sorted(medians, key=medians.__getitem__, reverse=best == "highest")
    ranked.sort(key=lambda name: sum(v is not None for v in rounds[name]) < MIN_ROUNDS)
    return {
        name: paired_ratio(rounds[name], rounds[ranked[0]]) if name != ranked[0] else None
        for name in ranked
    }


def best_group(
    rounds: Mapping[str, Sequence[float | None]], *, best: Best = "highest", noise: float = 1.0
) -> list[str]:
    """Return the candidate with the best median, and after it all that are not told apart from it.

    Only a group of one may be called the best: which of several equal candidates has the best
    median is chance.
    """
    worse = "lower" if best == "highest" else "higher"
    return [
        name
        for name, ratio in ratios_to_best(rounds, best).items()
        if ratio is None or ratio.claim(noise) != worse
    ]


def _t_985(freedom: int) -> float:
    """Student's t, 98.5% quantile; from 13 degrees of freedom on, by its expansion in 1/freedom."""
    if freedom <= len(T_985):
        return T_985[freedom - 1]
    z = 2.170090
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
