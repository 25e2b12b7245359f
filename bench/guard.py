"""Fail if noria has become slower: a few rows beside uvloop, each with a floor in floors.toml.

All rows are measured in paired rounds, noria and uvloop shortly after each other. A row fails only
if the confidence interval of its ratio lies wholly below its floor, so noise alone fails no run. A
row that would fail is measured a second time, in new processes, and the second result counts.
Exit status: 0 passed, 1 a row is below its floor, 2 wrong usage, 3 a row could not be measured.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import harness
from harness import BENCH

from noria.compare.loops import rows, run
from noria.compare.loops.found import Found
from noria.compare.loops.loops import describe
from noria.compare.noise import noise_document
from noria.compare.statistics import MIN_ROUNDS, PairedRatio
from noria.models import PREFERENCE, choose

FLOORS = BENCH / "floors.toml"
ROUNDS = 9
SECONDS = 0.3
BASE = "uvloop"
PASSED, BELOW, USAGE, NOT_MEASURED = range(4)

Result = Literal["passed", "below its floor", "not measured"]


class BadFloors(Exception):
    """The file of the floors is wrong; the message says where."""


@dataclass(frozen=True)
class Floor:
    """The least ratio of a row."""

    row: str
    ratio: float
    because: str
    optional: bool = False  # a row that cannot be measured does not fail


@dataclass(frozen=True)
class Verdict:
    """What became of a row."""

    floor: Floor
    ratio: PairedRatio | None
    reason: str = ""  # why it was not measured

    @property
    def result(self) -> Result:
        """The result in words, as in the table and the JSON."""
        if self.ratio is None:
            return "not measured"
        return "below its floor" if self.ratio.high < self.floor.ratio else "passed"


def status(verdicts: Sequence[Verdict]) -> int:
    """Return the exit status. A row below its floor counts more than one that was not measured."""
    if any(verdict.result == "below its floor" for verdict in verdicts):
        return BELOW
    missing = [v for v in verdicts if v.result == "not measured" and not v.floor.optional]
    return NOT_MEASURED if missing or all(v.ratio is None for v in verdicts) else PASSED


def read_floors(path: Path, model: str) -> list[Floor]:
    """Read the floors of a model. Raises BadFloors."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadFloors(f"{path}: {error}") from None
    floors = []
    for row, table in tables.items():
        where = f"{path}: [{row!r}]"
        if not isinstance(table, dict) or not {"floor", "because"} <= table.keys():
            raise BadFloors(f"{where} needs `floor` and `because`")
        if unknown := table.keys() - {"floor", "because", "optional"}:
            raise BadFloors(f"{where} has an unknown key: {min(unknown)}")
        floors.append(
            Floor(
                row,
                floor_of(table["floor"], model, where),
                table["because"],
                table.get("optional", False),
            )
        )
    names = {row.name for row in rows.ROWS}
    if unknown_rows := [floor.row for floor in floors if floor.row not in names]:
        raise BadFloors(f"{path}: noria compare loops has no row {unknown_rows[0]!r}")
    if not floors:
        raise BadFloors(f"{path} has no rows")
    return floors


def floor_of(value: Any, model: str, where: str) -> float:
    """Return a floor, which is one number or a number for each model. Raises BadFloors."""
    if isinstance(value, Mapping):
        # A model that is not listed is a slower one than those that are.
        value = value[model] if model in value else min(value.values(), default=None)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise BadFloors(f"{where}: `floor` must be a ratio, or one for each model")
    return float(value)


def measure(
    floors: Sequence[Floor], loop: str, rounds: int, seconds: float
) -> tuple[list[Verdict], dict[str, Any]]:
    """Measure the rows on the loop and on uvloop; return the verdicts and the machine's noise."""
    for name in (BASE, loop):
        described = describe(name)
        if described.reason:
            why = ": ".join(filter(None, [name, described.reason, described.install]))
            return [Verdict(floor, None, why) for floor in floors], noise_document(None, [])
    verdicts = []
    began = time.monotonic()
    with run.at_place(seconds=seconds) as place:

        def attempt(floor: Floor) -> Verdict:
            (row,) = rows.select([floor.row])
            return verdict_of(floor, run.measure_row(row, [loop, BASE], place, rounds), loop)

        for number, floor in enumerate(floors):
            harness.progress(number, len(floors), began, floor.row)
            verdicts.append(confirmed(attempt, floor))
        harness.progress_end()
        return verdicts, noise_document(place.meter, [])


def confirmed(attempt: Callable[[Floor], Verdict], floor: Floor) -> Verdict:
    """Return the first verdict if it passes, else that of a second attempt.

    All rounds of an attempt measure the same two processes. Their layout in memory may make one a
    few percent slower, which more rounds do not show and new processes do.
    """
    verdict = attempt(floor)
    if verdict.result == "passed":
        return verdict
    harness.progress_end()
    why = f" ({verdict.reason})" if verdict.reason else ""
    harness.log(f"{floor.row}: {verdict.result}{why}: it is measured again")
    return attempt(floor)


def verdict_of(floor: Floor, found: Found, loop: str) -> Verdict:
    """Return the verdict on the measurements of a row."""
    for name in (BASE, loop):
        if reason := found.unavailable.get(name) or found.failures.get(name):
            return Verdict(floor, None, f"{name}: {reason}")
    ratio = found.ratio(loop, BASE)
    few = "" if ratio else f"fewer than {MIN_ROUNDS} rounds measured both loops"
    return Verdict(floor, ratio, few)


def show(verdicts: Sequence[Verdict], loop: str) -> None:
    """Print the table."""
    lines = []
    for verdict in verdicts:
        ratio = verdict.ratio
        mark = " (optional)" if verdict.ratio is None and verdict.floor.optional else ""
        lines.append(
            [
                verdict.floor.row,
                f"{ratio.median:.2f}" if ratio else "–",
                f"{ratio.low:.2f}–{ratio.high:.2f}" if ratio else "–",
                f"{verdict.floor.ratio:.2f}",
                verdict.result + mark,
            ]
        )
    columns = [f"{loop} / {BASE}", "ratio", "interval", "floor", ""]
    harness.table(f"how many times as fast as {BASE}, with its confidence interval", columns, lines)
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.reason:
            reasons.setdefault(verdict.reason, []).append(verdict.floor.row)
    for reason, names in reasons.items():
        print(f"not measured: {', '.join(names)}: {reason}")


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts as JSON values."""
    return [
        {
            "row": verdict.floor.row,
            "floor": verdict.floor.ratio,
            "ratio": asdict(verdict.ratio) if verdict.ratio else None,
            "result": verdict.result,
            "optional": verdict.floor.optional,
            "reason": verdict.reason,
        }
        for verdict in verdicts
    ]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--rounds", type=int, default=ROUNDS, help=f"{MIN_ROUNDS} or more")
    p.add_argument("--seconds", type=float, default=SECONDS, help="duration of each measurement")
    p.add_argument("--model", choices=PREFERENCE, help="noria's model, by default its own choice")
    p.add_argument("--rows", metavar="NAME;...", help="only these rows of the file")
    p.add_argument("--floors", metavar="FILE", type=Path, default=FLOORS)
    p.add_argument("--json", metavar="FILE", help="write the verdicts to FILE")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    p = parser()
    options = p.parse_args(arguments)
    if options.rounds < MIN_ROUNDS:
        p.error(f"--rounds must be {MIN_ROUNDS} or more, else there is no confidence interval")
    model = options.model or choose()[0]
    try:
        floors = read_floors(options.floors, model)
    except BadFloors as error:
        p.error(str(error))
    if options.rows:
        wanted = [name.strip() for name in options.rows.split(";")]
        if unknown := set(wanted) - {floor.row for floor in floors}:
            p.error(f"{options.floors} has no row {min(unknown)!r}")
        floors = [floor for floor in floors if floor.row in wanted]
    loop = f"noria-{model}"
    verdicts, noise = measure(floors, loop, options.rounds, options.seconds)
    show(verdicts, loop)
    found = {"loop": loop, "base": BASE, "noise": noise, "rows": as_json(verdicts)}
    harness.write(options.json, found)
    if noise["warning"]:
        print(noise["warning"])
    result = status(verdicts)
    print(MESSAGES[result])
    return result


MESSAGES = {
    PASSED: "passed: no row is below its floor",
    BELOW: "failed: a row is below its floor with its whole interval",
    NOT_MEASURED: "failed: a row could not be measured, so nothing is known about it",
}


if __name__ == "__main__":
    harness.run_main(lambda: sys.exit(main()))
