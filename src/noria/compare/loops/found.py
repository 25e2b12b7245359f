"""The measurements of one row, by loop and round, and ratios computed from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from noria.compare.loops.row import Row, Sample
from noria.compare.statistics import PairedRatio, paired_ratio, spread

BUSY = 0.9  # share of its core below which the server was not the limit
DISTURBED = 0.05  # share of waiting above which other processes are the reason
LIMIT = "c-epoll"  # the server in C: a limit, not a loop


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are not None, or None."""
    found = spread(values)
    return None if found is None else found.median


@dataclass
class Found:
    """The samples of one row by loop and round, and why loops were skipped."""

    row: Row
    samples: dict[str, dict[int, Sample]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    """Loops without any sample: the reason."""
    failures: dict[str, str] = field(default_factory=dict)
    """Loops that failed after some samples: the reason."""
    again: dict[int, Sample] = field(default_factory=dict)
    """By round: the second process of `repeated`, for the noise of the row."""
    repeated: str = ""

    def values(self, loop: str) -> dict[int, float]:
        """By round."""
        return {n: sample.value for n, sample in self.samples.get(loop, {}).items()}

    def rounds(self) -> int:
        """Return the number of rounds."""
        return 1 + max((n for samples in self.samples.values() for n in samples), default=-1)

    def series(self, loop: str) -> list[float | None]:
        """Return the loop's values, one per round; None where it has no sample."""
        values = self.values(loop)
        return [values.get(n) for n in range(self.rounds())]

    def middle(self, loop: str) -> float | None:
        """Return the median over the rounds."""
        return middle(self.values(loop).values())

    def busy(self, loop: str) -> float | None:
        """Return the share of time the process ran on its core, the median over the rounds."""
        return middle(sample.busy for sample in self.samples.get(loop, {}).values())

    def last(self, loop: str) -> float | None:
        """Return the share of an upload's time after its last byte, the median over the rounds."""
        return middle(sample.last for sample in self.samples.get(loop, {}).values())

    def disturbed(self, loop: str) -> float:
        """Return the share of time other processes had either core, the median over the rounds."""
        samples = self.samples.get(loop, {}).values()
        return middle(max(s.waiting or 0.0, s.load_waiting or 0.0) for s in samples) or 0.0

    def not_busy(self) -> dict[str, float]:
        """Return the loops whose server was not the limit, so that their value means little."""
        if not self.row.driven:
            return {}
        shares = {loop: self.busy(loop) for loop in self.samples if loop != LIMIT}
        return {loop: share for loop, share in shares.items() if share is not None and share < BUSY}

    def gain(self, loop: str, other: str) -> float | None:
        """Return how many times better a loop is than another: the median of the rounds' ratios.

        It needs one common round only, and claims nothing: see ratio().
        """
        mine, its = self.values(loop), self.values(other)
        return middle(self.row.gain(mine[n], its[n]) for n in mine if mine[n] and its.get(n))

    def ratio(self, loop: str, other: str) -> PairedRatio | None:
        """Return how many times better a loop is than another, with its confidence interval.

        None with too few common rounds.
        """
        mine, its = self.series(loop), self.series(other)
        return paired_ratio(its, mine) if self.row.less else paired_ratio(mine, its)
