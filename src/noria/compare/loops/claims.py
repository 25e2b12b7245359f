"""What a row's measurements allow to say: which loop is first, and by how much.

docs/compare.md explains the rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from noria.compare.loops.found import DISTURBED, Found
from noria.compare.noise import same_server_pair
from noria.compare.statistics import best_group


def noise_pairs(measured: Iterable[Found]) -> list[dict[str, Any] | None]:
    """Return each row's loop that was measured twice in a round, beside itself."""
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


def of_row(found: Found, noise: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the claims of a row: each loop of the first group, against each loop after it."""
    factor = row_noise(found.row.name, noise)
    first = leaders(found, factor)
    claimed = []
    for other in found.samples:
        if other in first:
            continue
        for loop in first:
            ratio = found.ratio(loop, other)
            if ratio is None or ratio.claim(factor) != "higher":
                continue
            higher, lower = (other, loop) if found.row.less else (loop, other)
            claimed.append(
                {
                    "figure": found.row.name,
                    "column": "value",
                    "at": {},
                    "higher": higher,
                    "lower": lower,
                    "ratio": ratio.median,
                    "low": ratio.low,
                    "high": ratio.high,
                }
            )
    return claimed


def leaders(found: Found, noise: float) -> list[str]:
    """Return the best loop by its median, and those that cannot be told apart from it."""
    values = {loop: found.series(loop) for loop in found.samples}
    return best_group(values, best="lowest" if found.row.less else "highest", noise=noise)


def limit_note(found: Found, loop: str) -> str:
    """Return why the server was not busy all the time, so that its value means little."""
    share = f"the server was busy {found.busy(loop):.0%} of the time: "
    if found.disturbed(loop) > DISTURBED:
        return share + "other processes used the core"
    return share + "the load was the limit"
