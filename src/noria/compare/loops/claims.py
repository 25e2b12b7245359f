"""What a row's measurements allow to say: which loop is first, and by how much.

docs/compare.md explains the rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from noria.compare.loops.found import DISTURBED, Found
from noria.compare.noise import factor, same_server_pair
from noria.compare.report import words
from noria.compare.report.standings import Claim, Standing, ranked
from noria.compare.statistics import MIN_ROUNDS, Best

SAME = "No difference could be measured here"

BUSY_NOTE = "the server was busy"
"""Begins the note of a value that says little about its server."""


def noise_pairs(measured: Iterable[Found]) -> list[dict[str, Any] | None]:
    """Return each row's loop that had two processes: one beside the other."""
    return [
        same_server_pair(
            [found.samples[found.repeated][n].value for n in found.again],
            [sample.value for sample in found.again.values()],
            row=found.row.name,
            loop=found.repeated,
        )
        for found in measured
        if found.again
    ]


def standing(found: Found, noise: dict[str, Any]) -> Standing:
    """Compare the loops of a row. A loop that failed after a few rounds is not compared."""
    rounds = {
        loop: found.series(loop) for loop in found.samples if len(found.values(loop)) >= MIN_ROUNDS
    }
    best: Best = "lowest" if found.row.less else "highest"
    return ranked(found.row.name, "value", {}, rounds, best, row_noise(found.row.name, noise))


def row_noise(name: str, noise: dict[str, Any]) -> float:
    """Return the ratio by which a loop differed from itself in a row, at least 1."""
    pairs = (pair for pair in noise.get("pairs") or () if pair.get("row") == name)
    return max(map(factor, pairs), default=1.0)


def of_row(found: Found, noise: dict[str, Any]) -> list[Claim]:
    """Return the claims of a row: the best loop, against each that can be told apart from it."""
    return standing(found, noise).claims()


def first_group(found: Found, noise: dict[str, Any]) -> list[str]:
    """Return the loops that the sentence and the tables say are ahead of the others, best first.

    An empty list if there are no others: then no difference could be measured.
    """
    compared = standing(found, noise)
    return compared.group if compared.ratios else []


def sentence(found: Found, noise: dict[str, Any]) -> str:
    """Return what can be said about a row: no difference that is not in its claims."""
    if not found.samples:
        return "Nothing was measured."
    if len(found.samples) == 1:
        return f"Only {next(iter(found.samples))} was measured."
    if found.rounds() < MIN_ROUNDS:
        return f"A statement needs {MIN_ROUNDS} rounds."
    compared = standing(found, noise)
    if not compared.ratios:
        return f"{SAME}."
    first = compared.group
    # The nearest by its median, so that a reader finds it in the table.
    nearest = next(iter(compared.ratios))
    ratio = found.ratio(first[0], nearest)
    assert ratio is not None
    interval = f"({ratio.low:.2f}–{ratio.high:.2f})"
    if found.row.less:
        ahead = f"{nearest} takes {ratio.median:.2f} times as much {interval}"
    else:
        ahead = f"{ratio.median:.2f} times {nearest} {interval}"
    if len(first) == 1:
        return f"{first[0]} is first: {ahead}."
    return f"{SAME} between {words.names(first)}; {first[0]}: {ahead}."


def limit_note(found: Found, loop: str) -> str:
    """Return why the server was not busy all the time, so that its value means little."""
    share = f"{BUSY_NOTE} {found.busy(loop):.0%} of the time: "
    if found.disturbed(loop) > DISTURBED:
        return share + "other processes used the cores"
    return share + "the load was the limit"
