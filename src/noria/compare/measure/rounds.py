"""Interleaved rounds: every candidate is measured once in each, in an order that rotates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import OUT_OF_TIME, Experiment
from noria.compare.measure.servers import Candidate
from noria.compare.statistics import MIN_ROUNDS

T = TypeVar("T")


def rotated(items: Sequence[T], by: int) -> list[T]:
    """Return the items, rotated by `by`, so that none always follows the same one."""
    turn = by % max(len(items), 1)
    return [*items[turn:], *items[:turn]]


class Rounds:
    """The rounds of one measurement, and what they may still take.

    A machine that is too slow for all rounds of all sizes leaves out the later sizes: one of which
    fewer than MIN_ROUNDS fit is dropped, because nothing could be said about it. Only of the first
    size any number of rounds is kept.
    """

    def __init__(self, experiment: Experiment, candidates: Sequence[Candidate]) -> None:
        self.experiment = experiment
        self.candidates = candidates
        self.seconds = 0.0
        """Duration of the latest round."""

        self.needed = 0
        """Rounds without which a size is dropped: none of the first."""

    def take(
        self,
        label: str,
        measure: Callable[[Candidate, int], T],
        shorten: Callable[[float], float] | None = None,
    ) -> tuple[dict[Candidate, list[T]], str]:
        """Measure all candidates in each round; return the results by candidate and a note.

        `measure(candidate, number of the round)` must not raise ChildFailed. `shorten` is called
        after the first round with its duration; it may shorten the others, and returns how long
        they will take. The note says why there are fewer rounds than in the settings; a candidate
        may lack the last one.
        """
        experiment, rounds = self.experiment, self.experiment.settings.rounds
        expected = experiment.done + rounds * len(self.candidates)
        found: dict[Candidate, list[T]] = {candidate: [] for candidate in self.candidates}
        complete = 0
        try:
            while complete < rounds and self._fits(complete):
                began = time.monotonic()
                for candidate in rotated(self.candidates, complete):
                    experiment.step(f"{label}, round {complete + 1} of {rounds}: {candidate.model}")
                    found[candidate].append(measure(candidate, complete))
                self.seconds = time.monotonic() - began
                complete += 1
                if complete == 1 and shorten is not None:
                    self.seconds = shorten(self.seconds)
        except ChildFailed:
            pass  # out of time
        experiment.done = expected
        needed, self.needed = self.needed, min(MIN_ROUNDS, rounds)
        if complete < needed:
            return {candidate: [] for candidate in self.candidates}, OUT_OF_TIME
        if complete == rounds:
            return found, ""
        return found, f"{complete} of {rounds} rounds: out of time" if complete else OUT_OF_TIME

    def _fits(self, complete: int) -> bool:
        """Whether there is time for the next round, and for those that the size must have."""
        left = max(1, self.needed - complete)
        return self.experiment.time_left >= left * self.seconds
