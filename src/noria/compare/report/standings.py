"""Compares the models column by column, by the rule of noria.compare.statistics.

Everything that says one model is better than another (a sentence, a mark in a table, a claim in the
document) takes it from a Standing, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noria.compare.noise import same_server
from noria.compare.report import document
from noria.compare.report.document import Row, number
from noria.compare.statistics import Best, PairedRatio, Spread, paired_ratio, ratios_to_best, spread

Claim = dict[str, Any]
Rounds = Mapping[str, Sequence[float | None]]

THROUGHPUT_COLUMNS: dict[str, Best] = {
    "messages_per_second": "highest",
    "p50_us": "lowest",
    "p99_us": "lowest",
    "p999_us": "lowest",
    "cpu_us": "lowest",
    "user_us": "lowest",
    "kernel_us": "lowest",
    "syscalls_per_message": "lowest",
    "empty_asks_per_message": "lowest",
}
ANSWERS = ("first", "second", "median", "last")
IDLE_COLUMNS = ("cpu_us_per_message", "us_per_message")


@dataclass(frozen=True)
class Standing:
    """The models in one column at one place, best median first."""

    figure: str
    column: str
    at: dict[str, Any]
    best: Best
    spreads: dict[str, Spread]
    ratios: dict[str, PairedRatio]
    """The ratio to the first model of each model that is measurably worse."""

    @property
    def group(self) -> list[str]:
        """The first model, and those that could not be told apart from it."""
        return [name for name in self.spreads if name not in self.ratios]

    @property
    def winner(self) -> str | None:
        """The best model, if every other one is measurably worse."""
        return self.group[0] if self.ratios and len(self.group) == 1 else None

    def claims(self) -> list[Claim]:
        """That the first model is better than each of those that are measurably worse."""
        first = self.group[0] if self.spreads else ""
        return [
            claim(self.figure, self.column, self.at, name, first, ratio)
            for name, ratio in self.ratios.items()
        ]


def claim(
    figure: str, column: str, at: dict[str, Any], name: str, other: str, ratio: PairedRatio
) -> Claim:
    """Return the claim that two candidates differ; `ratio` is that of `name` to `other`."""
    higher, lower, ends = name, other, (ratio.median, ratio.low, ratio.high)
    if ratio.median < 1:
        higher, lower, ends = other, name, (1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
    return {
        "figure": figure,
        "column": column,
        "at": dict(at),
        "higher": higher,
        "lower": lower,
        "ratio": ends[0],
        "low": ends[1],
        "high": ends[2],
    }


def ranked(
    figure: str, column: str, at: dict[str, Any], rounds: Rounds, best: Best, noise: float
) -> Standing:
    """Compare the candidates of `rounds`, which has one number per round.

    `noise`: the ratio by which a candidate differs from itself there, at least 1.
    """
    worse = "lower" if best == "highest" else "higher"
    found = ratios_to_best(rounds, best)
    return Standing(
        figure,
        column,
        at,
        best,
        {name: each for name in found if (each := spread(rounds[name])) is not None},
        {
            name: ratio
            for name, ratio in found.items()
            if ratio is not None and ratio.claim(noise) == worse
        },
    )


def standing(
    results: dict[str, Any],
    figure: str,
    column: str,
    at: dict[str, Any],
    rounds: Rounds,
    best: Best = "lowest",
) -> Standing:
    """Compare the models of a document in one of its columns, at one place."""
    noise = same_server(results.get("noise"), figure=figure, **at)
    return ranked(figure, column, at, rounds, best, noise)


def throughput(results: dict[str, Any], column: str, connections: int) -> Standing:
    """The models that serve every client, at one number of connections."""
    found = [row for row in document.rows(results, "throughput") if not document.serves_some(row)]
    rounds = _column(found, "connections", connections, column)
    at = {"connections": connections}
    return standing(results, "throughput", column, at, rounds, THROUGHPUT_COLUMNS[column])


def handler(results: dict[str, Any]) -> Standing:
    """The time from send to handler."""
    return standing(results, "phases", "handler", {}, document.handler_rounds(results))


def answer(results: dict[str, Any], which: str, names: Iterable[str] | None = None) -> Standing:
    """The time of the "first", "second", "median" or "last" answer, one of ANSWERS."""
    answers = document.answer_rounds(results)
    clients = max((len(times) for each in answers.values() for times in each), default=0)
    nth = {"first": 0, "second": 1, "median": (clients - 1) // 2, "last": clients - 1}[which]
    rounds = {
        name: [times[nth] if 0 <= nth < len(times) else None for times in each]
        for name, each in answers.items()
        if names is None or name in names
    }
    return standing(results, "waiting", "first_answer_ms", {"answer": which}, rounds)


def idle(results: dict[str, Any], column: str, count: int) -> Standing:
    """The models beside one number of idle connections."""
    rounds = _column(document.rows(results, "idle"), "idle", count, column)
    return standing(results, "idle", column, {"idle": count}, rounds)


@dataclass(frozen=True)
class Growth:
    """One model's cost of a message beside the fewest and the most idle connections."""

    model: str
    column: str
    start: int
    end: int
    ratio: PairedRatio | None
    """None if there are too few rounds."""

    change: str | None
    """"higher", "lower", or None if no change could be measured."""

    def claims(self) -> list[Claim]:
        """The measured change, if there is one."""
        if self.ratio is None or self.change is None:
            return []
        names = f"{self.end} idle", f"{self.start} idle"
        return [claim("idle", self.column, {"model": self.model}, *names, self.ratio)]


def growths(results: dict[str, Any], column: str) -> list[Growth]:
    """The growth of each model that was measured with at least two numbers of idle connections."""
    rows = document.rows(results, "idle")
    noise = same_server(results.get("noise"))
    found = []
    for name in document.model_order(results, rows):
        curve = {
            int(number(row, "idle") or 0): document.rounds(row, column)
            for row in rows
            if row["model"] == name and number(row, column) is not None
        }
        if len(curve) > 1:
            start, end = min(curve), max(curve)
            ratio = paired_ratio(curve[end], curve[start])
            change = None if ratio is None else ratio.claim(noise)
            found.append(Growth(name, column, start, end, ratio, change))
    return found


def marks(results: dict[str, Any]) -> list[Standing]:
    """Return the standings whose winners the tables mark."""
    counts = document.counts(document.rows(results, "throughput"), "connections")
    idles = document.counts(document.rows(results, "idle"), "idle")
    found = [
        *(throughput(results, key, n) for n in counts for key in THROUGHPUT_COLUMNS),
        handler(results),
        *(answer(results, which) for which in ANSWERS),
        *(idle(results, key, n) for n in idles for key in IDLE_COLUMNS),
    ]
    return [each for each in found if each.winner is not None]


def _column(found: Iterable[Row], axis: str, at: int, column: str) -> Rounds:
    return {
        str(row["model"]): document.rounds(row, column) for row in found if number(row, axis) == at
    }
