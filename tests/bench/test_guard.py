"""bench/guard.py fails a row only if its interval lies wholly below the floor."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import guard
import pytest
from guard import BELOW, NOT_MEASURED, PASSED, Floor, Verdict, read_floors, status, verdict_of

from noria.compare.loops.found import Found
from noria.compare.loops.loops import Loop
from noria.compare.loops.row import Sample
from noria.compare.loops.rows import ROWS

ROW = ROWS[0]
MINE, ITS = "noria-epoll", guard.BASE
FLOORS = """
[echo-protocol]
floor = { io_uring = 1.2, epoll = 1.0 }
because = "a reason"

[call_soon]
floor = 3
because = "a reason"
optional = true
"""


def floor(ratio: float, optional: bool = False) -> Floor:
    return Floor(ROW.name, ratio, "a reason", optional)


def measured(mine: list[float], its: list[float]) -> Found:
    """Return the measurements of a row, one of each list per round."""
    found = Found(ROW)
    for loop, values in ((MINE, mine), (ITS, its)):
        found.samples[loop] = {number: Sample(value) for number, value in enumerate(values)}
    return found


def rounds(ratio: float, noise: float, seed: int, count: int = guard.ROUNDS) -> Found:
    """Return measurements with a true ratio; rounds drift together, and each value has noise."""
    source = random.Random(seed)
    drift = [source.uniform(0.6, 1.4) for _ in range(count)]
    its = [1000.0 * d * source.lognormvariate(0, noise) for d in drift]
    mine = [1000.0 * ratio * d * source.lognormvariate(0, noise) for d in drift]
    return measured(mine, its)


def decide(ratio: float, at_least: float, noise: float, seed: int) -> str:
    return verdict_of(floor(at_least), rounds(ratio, noise, seed), MINE).result


def test_an_interval_wholly_below_the_floor_fails() -> None:
    verdict = verdict_of(floor(1.2), measured([90.0] * 7, [100.0] * 7), MINE)
    assert verdict.result == "below its floor"
    assert status([verdict]) == BELOW


def test_an_interval_that_reaches_the_floor_passes() -> None:
    mine = [100.0, 131.0, 94.0, 128.0, 102.0, 125.0, 99.0]
    verdict = verdict_of(floor(1.2), measured(mine, [100.0] * 7), MINE)
    assert verdict.ratio is not None
    assert verdict.ratio.median < 1.2 < verdict.ratio.high
    assert verdict.result == "passed"
    assert status([verdict]) == PASSED


def test_an_interval_above_the_floor_passes() -> None:
    verdict = verdict_of(floor(1.2), measured([140.0] * 7, [100.0] * 7), MINE)
    assert verdict.result == "passed"


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_an_honest_run_passes(noise: float) -> None:
    # 0.85 of what is measured is the floor, as in floors.toml.
    assert {decide(1.2, 0.85 * 1.2, noise, seed) for seed in range(300)} == {"passed"}


@pytest.mark.parametrize(("noise", "caught"), [(0.01, 1.0), (0.03, 0.99), (0.05, 0.8)])
def test_a_quarter_less_is_found(noise: float, caught: float) -> None:
    results = [decide(0.75 * 1.2, 0.85 * 1.2, noise, seed) for seed in range(300)]
    assert results.count("below its floor") >= caught * len(results)


def test_one_disturbed_round_fails_no_row() -> None:
    mine = [120.0] * 10 + [20.0]
    verdict = verdict_of(floor(1.05), measured(mine, [100.0] * 11), MINE)
    assert verdict.result == "passed"


def test_lower_is_better() -> None:
    less = next(row for row in ROWS if row.less)
    found = measured([100.0] * 7, [90.0] * 7)
    found.row = less
    assert verdict_of(floor(1.0), found, MINE).result == "below its floor"
    assert verdict_of(floor(0.8), found, MINE).result == "passed"


def test_a_row_that_cannot_be_measured_fails_unless_it_is_optional() -> None:
    found = Found(ROW, unavailable={ITS: "not installed: pip install uvloop"})
    missing = verdict_of(floor(1.0), found, MINE)
    assert missing.result == "not measured"
    assert missing.reason == "uvloop: not installed: pip install uvloop"
    fine = verdict_of(floor(1.0), measured([120.0] * 7, [100.0] * 7), MINE)
    below = verdict_of(floor(2.0), measured([120.0] * 7, [100.0] * 7), MINE)
    optional = Verdict(floor(1.0, optional=True), None, "no TLS")
    assert status([fine, missing]) == NOT_MEASURED
    assert status([fine, optional]) == PASSED
    assert status([below, missing]) == BELOW
    assert status([optional]) == NOT_MEASURED  # nothing at all was measured


def test_a_row_that_fails_is_measured_a_second_time() -> None:
    below = verdict_of(floor(1.2), measured([90.0] * 7, [100.0] * 7), MINE)
    passes = verdict_of(floor(1.2), measured([140.0] * 7, [100.0] * 7), MINE)
    missing = Verdict(floor(1.2), None, "no message came back")
    for results, expected in (
        ([passes], "passed"),
        ([below, passes], "passed"),
        ([missing, passes], "passed"),
        ([below, below], "below its floor"),
        ([missing, below], "below its floor"),
        ([missing, missing], "not measured"),
    ):
        left = iter(results)
        assert guard.confirmed(lambda _, left=left: next(left), floor(1.2)).result == expected
        assert not list(left)


def test_without_uvloop_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Loop:
        return Loop(name, "", "not installed", f"pip install {name}")

    monkeypatch.setattr(guard, "describe", missing)
    assert guard.main([]) == NOT_MEASURED
    shown = capsys.readouterr().out
    assert "echo-protocol" in shown
    assert "uvloop: not installed: pip install uvloop" in shown


def test_too_few_rounds_are_not_measured() -> None:
    verdict = verdict_of(floor(1.0), measured([1.0] * 4, [2.0] * 4), MINE)
    assert verdict.result == "not measured"


def test_a_server_that_fails_in_between_is_not_measured() -> None:
    found = measured([120.0] * 7, [100.0] * 7)
    found.failures[MINE] = "it ended"
    assert verdict_of(floor(1.0), found, MINE).reason == "noria-epoll: it ended"


@pytest.mark.parametrize(("model", "ratio"), [("io_uring", 1.2), ("epoll", 1.0), ("poll", 1.0)])
def test_floors_of_a_model(tmp_path: Path, model: str, ratio: float) -> None:
    path = tmp_path / "floors.toml"
    path.write_text(FLOORS)
    first, second = read_floors(path, model)
    assert first == Floor("echo-protocol", ratio, "a reason")
    assert second == Floor("call_soon", 3.0, "a reason", optional=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("[", "floors.toml"),
        ("echo-protocol = 1", "needs `floor` and `because`"),
        ("[echo-protocol]\nfloor = 1", "needs `floor` and `because`"),
        ('[echo-protocol]\nfloor = 0\nbecause = "x"', "must be a ratio"),
        ('[echo-protocol]\nfloor = "1"\nbecause = "x"', "must be a ratio"),
        ('[echo-protocol]\nfloor = {}\nbecause = "x"', "must be a ratio"),
        ('[echo-protocol]\nfloor = 1\nbecause = "x"\nfloors = 1', "unknown key: floors"),
        ('[echo]\nfloor = 1\nbecause = "x"', "has no row 'echo'"),
    ],
)
def test_wrong_floors(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "floors.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        guard.main(["--floors", str(path)])
    assert ended.value.code == guard.USAGE
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "4"], ["--rows", "nothing"], ["--model", "none"], ["--floors", "/none"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        guard.main(arguments)
    assert ended.value.code == guard.USAGE
    assert capsys.readouterr().err


def test_exit_status_and_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    results: dict[str, Any] = {}

    def measure(floors: list[Floor], loop: str, *_: float) -> Any:
        found = measured([results["mine"]] * 7, [100.0] * 7)
        found.samples[loop] = found.samples.pop(MINE)
        return [verdict_of(each, found, loop) for each in floors], {"warning": ""}

    monkeypatch.setattr(guard, "measure", measure)
    path = tmp_path / "floors.toml"
    path.write_text('[echo-protocol]\nfloor = 1.0\nbecause = "x"\n')
    command = ["--floors", str(path), "--model", "epoll"]
    results["mine"] = 120.0
    assert guard.main(command) == PASSED
    assert "1.20" in capsys.readouterr().out
    results["mine"] = 80.0
    assert guard.main(command) == BELOW
    shown = capsys.readouterr().out
    assert "below its floor" in shown
    assert "0.80" in shown


def test_the_floors_of_the_project_are_valid() -> None:
    for model in ("io_uring", "epoll", "poll"):
        assert len(read_floors(guard.FLOORS, model)) == 8
