"""What a row's measurements allow to say: which loop is first, and by how much.

docs/compare.md explains the rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from noria.compare.loops.found import DISTURBED, Found
from noria.compare.noise import same_server_pair
from noria.compare.report.standings import Claim, claim
from noria.compare.statistics import MIN_ROUNDS, best_group

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


def row_noise(name: str, noise: dict[str, Any]) -> float:
    """Return the ratio by which a loop differed from itself in a row, at least 1."""
    for pair in noise.get("pairs") or ():
        if pair.get("row") == name:
            ratio = float(pair["ratio"])
            return max(ratio, 1 / ratio)
    return 1.0


def of_row(found: Found, noise: dict[str, Any]) -> list[Claim]:
    """Return the claims of a row: the best loop, against each that can be told apart from it."""
    first = leaders(found, row_noise(found.row.name, noise))
    claimed: list[Claim] = []
    for other in found.samples:
        ratio = found.ratio(first[0], other) if first and other not in first else None
        if ratio is None:
            continue
        names = (other, first[0]) if found.row.less else (first[0], other)
        claimed.append(claim(found.row.name, "value", {}, *names, ratio))
    return claimed


def leaders(found: Found, noise: float) -> list[str]:
    """Return the best loop by its median, and those that cannot be told apart from it.

    A loop that failed after a few rounds is in no statement.
    """
    values = {
        loop: found.series(loop) for loop in found.samples if len(found.values(loop)) >= MIN_ROUNDS
    }
    return best_group(values, best="lowest" if found.row.less else "highest", noise=noise)


def first_group(found: Found, noise: dict[str, Any]) -> list[str]:
    """Return the loops that the sentence and the tables say are ahead of the others, best first.

    An empty list if there are no others: then no difference could be measured.
    """
    return leaders(found, row_noise(found.row.name, noise)) if of_row(found, noise) else []


def sentence(found: Found, noise: dict[str, Any]) -> str:
    """Return what can be said about a row: no difference that is not in its claims."""
    if not found.samples:
        return "Nothing was measured."
    if len(found.samples) == 1:
        return f"Only {next(iter(found.samples))} was measured."
    if found.rounds() < MIN_ROUNDS:
        return f"A statement needs {MIN_ROUNDS} rounds."
    first = first_group(found, noise)
    worse = "higher" if found.row.less else "lower"
    behind = [each[worse] for each in of_row(found, noise)]
    if not first:
        return f"{SAME}."
    # The nearest by its median, so that a reader finds it in the table.
    pick = min if found.row.less else max
    nearest = pick(behind, key=lambda loop: found.middle(loop) or 0.0)
    ratio = found.ratio(first[0], nearest)
    assert ratio is not None
    interval = f"({ratio.low:.2f}–{ratio.high:.2f})"
    if found.row.less:
        ahead = f"{nearest} takes {ratio.median:.2f} times as much {interval}"
    else:
        ahead = f"{ratio.median:.2f} times {nearest} {interval}"
    if len(first) == 1:
        return f"{first[0]} is first: {ahead}."
    return f"{SAME} between {', '.join(first[:-1])} and {first[-1]}; {first[0]}: {ahead}."


def limit_note(found: Found, loop: str) -> str:
    """Return why the server was not busy all the time, so that its value means little."""
    share = f"{BUSY_NOTE} {found.busy(loop):.0%} of the time: "
    if found.disturbed(loop) > DISTURBED:
        return share + "other processes used the cores"
    return share + "the load was the limit"
