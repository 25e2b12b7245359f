"""The comparison of loops: all rows of all loops; the result is one document."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from noria.compare.loops import claims, rows, run
from noria.compare.loops import loops as all_loops
from noria.compare.loops.found import Found
from noria.compare.loops.row import Place, Row
from noria.compare.measure.experiment import OUT_OF_TIME, Progress
from noria.compare.measure.run import run_info
from noria.compare.noise import NoiseMeter, noise_document
from noria.compare.statistics import MIN_ROUNDS, spread

START_SECONDS = 1.5
"""Of a row: its processes start together."""

OVERHEAD_SECONDS = 0.02
"""Of a measurement, beyond its duration and the warm-up."""


@dataclass(frozen=True)
class Settings:
    """Durations and repetitions of a comparison, in seconds."""

    rounds: int
    seconds: float
    """Of one measurement at most; fewer if the budget requires it."""

    least: float
    """Of one measurement at least."""

    warmup: float
    budget: float
    """Of the whole run; rows that cannot be measured by then are skipped, with a note."""


QUICK = Settings(rounds=7, seconds=0.1, least=0.025, warmup=0.008, budget=78.0)
FULL = Settings(rounds=11, seconds=0.4, least=0.1, warmup=0.05, budget=540.0)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during the measurement; `results` is the document of what was measured so far."""

    def __init__(self, results: dict[str, Any]):
        super().__init__()
        self.results = results


def compare(
    loops: Sequence[str] | None = None,
    *,
    quick: bool = False,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
    settings: Settings | None = None,
    known: Sequence[Row] = rows.ROWS,
) -> dict[str, Any]:
    """Run the comparison and return its document, which docs/compare-loops.md describes.

    `loops`: names of loops.KNOWN, or globs; None for all. `only`: of rows, likewise. What
    is not installed is skipped, with the reason in the document. No process outlives the call.
    Raises ValueError for an unknown row or loop, and Interrupted for KeyboardInterrupt.
    """
    settings = settings or (QUICK if quick else FULL)
    chosen = rows.select(only, known) if only else list(known)
    described = [
        all_loops.describe(name) for name in (all_loops.select(loops) if loops else all_loops.KNOWN)
    ]
    comparison = Comparison(settings, chosen, described, progress)
    command = ["noria compare loops", *(["--quick"] if quick else [])]
    command += [f"--loops {','.join(loops)}"] if loops else []
    command += [f"--only {','.join(only)}"] if only else []
    info = run_info(" ".join(command), quick)
    try:
        comparison.measure()
    except KeyboardInterrupt:
        raise Interrupted(comparison.document(info)) from None
    return comparison.document(info)


class Comparison:
    """One comparison in progress."""

    def __init__(
        self,
        settings: Settings,
        chosen: list[Row],
        described: list[all_loops.Loop],
        progress: Progress | None,
    ) -> None:
        self.settings = settings
        self.described = described
        self.available = [loop.name for loop in described if not loop.reason]
        self.found = {row.name: Found(row) for row in chosen}
        self.progress = progress
        self.meter: NoiseMeter | None = None
        self.place: Place | None = None
        self.done = 0
        self.skipped: list[str] = []

    def measure(self) -> None:
        """Measure every row."""
        self.began = time.monotonic()
        self.left = {name: self._slots(found.row) for name, found in self.found.items()}
        self.total = sum(self.left.values())
        with run.at_place(seconds=self.settings.seconds, warmup=self.settings.warmup) as place:
            self.meter, self.place = place.meter, place
            for name, found in self.found.items():
                plan = self._plan()
                if plan is None:
                    self.skipped.append(name)
                else:
                    rounds, seconds = plan
                    run.measure_row(
                        found.row,
                        self.available,
                        replace(place, seconds=seconds),
                        rounds,
                        found=found,
                        step=self._step,
                        repeat=next(iter(self.available), ""),
                    )
                del self.left[name]
                self.done = self.total - sum(self.left.values())
        if self.progress is not None:
            self.progress(1.0, "done")

    def _slots(self, row: Row) -> int:
        """Number of measurements of a row."""
        count = sum(row.applies_to(loop) for loop in self.available)
        return self.settings.rounds * (count + (1 if row.interleaved and count else 0))

    def _plan(self) -> tuple[int, float] | None:
        """Rounds of the next row and duration of each measurement; None after the budget.

        If the time is short, the measurements become shorter, then the rounds fewer.
        """
        settings = self.settings
        left = settings.budget - (time.monotonic() - self.began)
        if left <= 0 and self.done:
            return None
        slots = sum(self.left.values())
        each = (left - START_SECONDS * len(self.left)) / slots if slots else 0.0
        each -= OVERHEAD_SECONDS + settings.warmup
        rounds = settings.rounds if each >= settings.least else min(settings.rounds, MIN_ROUNDS)
        return rounds, min(settings.seconds, max(settings.least, each))

    def _step(self, row: Row, loop: str, number: int) -> None:
        if self.progress is not None:
            self.progress(min(self.done / self.total, 1.0), f"{row.name}: {loop}, {number + 1}")
        self.done += 1

    def document(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return the document of what has been measured so far."""
        measured = {name: found for name, found in self.found.items() if found.samples}
        noise = noise_document(self.meter, claims.noise_pairs(measured.values()))
        return {
            **info,
            "rounds": self.settings.rounds,
            "pinned": None
            if self.place is None or self.place.server is None
            else {"server": self.place.server, "clients": self.place.load},
            "loops": [
                {
                    "name": loop.name,
                    "version": loop.version,
                    "available": not loop.reason,
                    "reason": loop.reason,
                    "install": loop.install,
                }
                for loop in self.described
            ],
            "measurements": [self._measurement(found, noise) for found in self.found.values()],
            "rows": [
                row
                for found in self.found.values()
                for loop in self.available
                if (row := self._row(found, loop)) is not None
            ],
            "noise": noise,
            "claims": [
                claim for found in measured.values() for claim in claims.of_row(found, noise)
            ],
        }

    def _measurement(self, found: Found, noise: dict[str, Any]) -> dict[str, Any]:
        row = found.row
        return {
            "row": row.name,
            "group": row.group,
            "title": row.title or row.name,
            "about": row.about,
            "unit": row.unit,
            "lower_is_better": row.less,
            "sentence": claims.sentence(found, noise),
            "first": claims.first_group(found, noise),
        }

    def _row(self, found: Found, loop: str) -> dict[str, Any] | None:
        """Return the result of one loop; None if it does not have the row or was not reached."""
        samples = found.samples.get(loop, {})
        note = found.unavailable.get(loop) or found.failures.get(loop) or ""
        if found.row.name in self.skipped:
            note = OUT_OF_TIME
        if not samples and not note:
            return None
        columns = ("value", "busy", "waiting")
        known = [asdict(samples[n]) if n in samples else {} for n in range(found.rounds())]
        series: dict[str, list[float | None]] = {
            key: [each.get(key) for each in known] for key in columns
        }
        spreads = {key: spread(values) for key, values in series.items()}
        not_busy = found.not_busy()
        if not note and loop in not_busy:
            note = claims.limit_note(found, loop)
        return {
            "row": found.row.name,
            "loop": loop,
            **{key: each and each.median for key, each in spreads.items()},
            "rounds": series,
            "lowest": {key: each and each.lowest for key, each in spreads.items()},
            "highest": {key: each and each.highest for key, each in spreads.items()},
            "note": note,
        }
