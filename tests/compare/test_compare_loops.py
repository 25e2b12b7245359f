"""The comparison of event loops: the engine on invented rows, and its document."""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from noria.compare.loops import claims, comparison, loops, rows, run
from noria.compare.loops.comparison import Interrupted, Settings, compare
from noria.compare.loops.found import Found
from noria.compare.loops.row import Place, Row, Sample, Subject, Unavailable, one_shot

LOOPS = ("asyncio", "noria-select", "noria-poll", "noria-epoll")
SPEEDS = {"asyncio": 1000.0, "noria-select": 1500.0, "noria-poll": 2000.0, "noria-epoll": 2010.0}
FAST = Settings(rounds=5, seconds=0.01, least=0.001, warmup=0.0, budget=30.0)


@pytest.fixture
def place(tmp_path):
    return Place(None, None, 0.01, tmp_path)


def fake(name="fake", *, speeds=SPEEDS, log=None, fail=None, **options):
    """Return a row whose values are exact, up to 1% that depends on the round.

    `fail` maps a loop to what fails: "start", "prepare", or the number of a measurement.
    """
    fail = fail or {}
    log = [] if log is None else log

    @contextlib.contextmanager
    def start(loop, place):
        log.append(("start", loop))
        if fail.get(loop) == "start":
            raise Unavailable("no start")
        count = itertools.count()

        def prepare():
            log.append(("prepare", loop))
            if fail.get(loop) == "prepare":
                raise Unavailable("not prepared")

        def measure():
            number = next(count)
            log.append(("measure", loop))
            if fail.get(loop) == number:
                raise Unavailable("it died")
            return Sample(speeds[loop] * (1 + 0.01 * (number % 2)), 0.99, 0.01, 0.0)

        try:
            yield Subject(measure, None, prepare)
        finally:
            log.append(("end", loop))

    return Row(name, start, **options)


# -- the engine ------------------------------------------------------------------------------------


def test_each_round_measures_every_loop_and_begins_with_another(place):
    log = []
    found = run.measure_row(fake(log=log), LOOPS[:3], place, rounds=3)
    measured = [loop for what, loop in log if what == "measure"]
    assert measured == [
        *("asyncio", "noria-select", "noria-poll"),
        *("noria-select", "noria-poll", "asyncio"),
        *("noria-poll", "asyncio", "noria-select"),
    ]
    assert found.values("noria-poll") == {0: 2000.0, 1: 2020.0, 2: 2000.0}
    assert found.unavailable == found.failures == {}


def test_each_process_is_started_once_before_the_rounds_and_ended_after_them(place):
    log = []
    run.measure_row(fake(log=log), LOOPS[:2], place, rounds=2)
    order = [what for what, _ in log]
    assert order == ["start"] * 2 + ["prepare"] * 2 + ["measure"] * 4 + ["end"] * 2


def test_a_row_that_is_not_interleaved_finishes_one_loop_before_the_next(place):
    log = []
    run.measure_row(fake(log=log, interleaved=False), LOOPS[:2], place, rounds=2, repeat="asyncio")
    assert [each for each in log if each[0] != "prepare"] == [
        *(("start", "asyncio"), ("measure", "asyncio"), ("measure", "asyncio"), ("end", "asyncio")),
        ("start", "noria-select"),
        *[("measure", "noria-select")] * 2,
        ("end", "noria-select"),
    ]


def test_one_loop_is_measured_twice_a_round_for_the_noise(place):
    found = run.measure_row(fake(), LOOPS[:2], place, rounds=5, repeat="asyncio")
    assert found.repeated == "asyncio"
    assert sorted(found.again) == sorted(found.values("asyncio")) == [0, 1, 2, 3, 4]
    (pair,) = claims.noise_pairs([found])
    assert (pair["row"], pair["loop"]) == ("fake", "asyncio")
    assert pair["ratio"] == pytest.approx(1.0, abs=0.02)


def test_the_noise_is_that_of_two_processes(place):
    """Two processes of one program may differ for as long as they live."""
    log = []
    found = run.measure_row(fake(log=log), LOOPS[:2], place, rounds=5, repeat="asyncio")
    assert log.count(("start", "asyncio")) == log.count(("end", "asyncio")) == 2
    assert log.count(("start", "noria-select")) == 1
    assert log.count(("measure", "asyncio")) == 10
    assert len(found.values("asyncio")) == 5


@pytest.mark.parametrize("failure", ["start", "prepare"])
def test_another_loop_is_measured_twice_if_the_first_one_cannot(failure, place):
    row = fake(fail={"asyncio": failure})
    found = run.measure_row(row, LOOPS[:3], place, rounds=5, repeat="asyncio")
    assert list(found.unavailable) == ["asyncio"]
    assert found.repeated == "noria-select"
    assert len(found.again) == 5
    (pair,) = claims.noise_pairs([found])
    assert pair["loop"] == "noria-select"


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("start", "no start"), ("prepare", "not prepared"), (0, "it died")],
)
def test_a_loop_that_cannot_do_a_row_is_skipped_with_its_reason(failure, reason, place):
    log = []
    row = fake(log=log, fail={"noria-select": failure})
    found = run.measure_row(row, LOOPS[:3], place, rounds=3)
    assert found.unavailable == {"noria-select": reason}
    assert list(found.samples) == ["asyncio", "noria-poll"]
    assert len(found.values("asyncio")) == len(found.values("noria-poll")) == 3
    assert log.count(("measure", "noria-select")) == (failure == 0)


def test_a_loop_that_fails_later_keeps_its_measurements(place):
    found = run.measure_row(fake(fail={"asyncio": 2}), LOOPS[:2], place, rounds=4)
    assert found.failures == {"asyncio": "it died"}
    assert found.unavailable == {}
    assert found.series("asyncio") == [1000.0, 1010.0, None, None]
    assert found.rounds() == 4


def test_every_process_ends_after_an_interruption_and_the_measurements_remain(place):
    log = []
    found = Found(fake(log=log))

    def step(row, loop, number):
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.measure_row(found.row, LOOPS, place, rounds=3, found=found, step=step)
    assert sorted(loop for what, loop in log if what == "end") == sorted(LOOPS)
    assert {loop: len(found.values(loop)) for loop in found.samples} == dict.fromkeys(LOOPS, 1)


def test_a_single_measurement_starts_and_ends_its_own_processes(place):
    log = []
    found = Found(fake(log=log, fail={"noria-poll": "prepare"}))
    assert run.measure_once(found, "asyncio", 0, place) == ""
    assert run.measure_once(found, "asyncio", 1, place) == ""
    assert run.measure_once(found, "noria-poll", 0, place) == "not prepared"
    assert run.measure_once(found, "noria-poll", 1, place) == ""
    assert found.series("asyncio") == [1000.0, 1000.0]
    assert [what for what, loop in log if loop == "asyncio"] == [
        *("start", "prepare", "measure", "end") * 2,
    ]
    assert log.count(("start", "noria-poll")) == 1


def test_one_shot_passes_its_arguments_on(place):
    @one_shot
    def measure(size, loop, at):
        assert at is place
        return Sample(size * len(loop))

    row = Row("one", lambda loop, at: measure(3, loop, at))
    assert run.measure_row(row, ["asyncio"], place, rounds=2).series("asyncio") == [21, 21]


def test_processes_are_stopped_while_others_are_measured(place):
    sleeping = {}
    states = []

    def state(pid):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    @contextlib.contextmanager
    def start(loop, at):
        with subprocess.Popen(["sleep", "60"]) as process:
            sleeping[loop] = process.pid
            try:
                yield Subject(lambda: measure(loop), process.pid)
            finally:
                process.kill()

    def measure(loop):
        others = [pid for other, pid in sleeping.items() if other != loop]
        # A process handles SIGSTOP when it gets a core, which may take long on a busy machine.
        latest = time.monotonic() + 20
        while any(state(pid) != "T" for pid in others) and time.monotonic() < latest:
            time.sleep(0.001)
        states.append((state(sleeping[loop]) != "T", [state(pid) for pid in others]))
        return Sample(1.0)

    run.measure_row(Row("sleepers", start), LOOPS[:3], place, rounds=2)
    assert states == [(True, ["T", "T"])] * 6


def test_this_process_has_its_cores_back_after_the_measurement():
    before = os.sched_getaffinity(0)
    with run.at_place(seconds=0.01) as place:
        if len(before) > 1:
            assert os.sched_getaffinity(0) == {place.load}
        assert place.scratch.is_dir()
    assert os.sched_getaffinity(0) == before
    assert not place.scratch.exists()


# -- ratios and statements -------------------------------------------------------------------------


def found_of(speeds, rounds=5, **options):
    row = fake(**options)
    samples = {
        loop: {n: Sample(speed * (1 + 0.01 * (n % 2))) for n in range(rounds)}
        for loop, speed in speeds.items()
    }
    return Found(row, samples)


def test_a_ratio_above_1_is_better_also_where_lower_is_better():
    more = found_of({"a": 200.0, "b": 100.0})
    less = found_of({"a": 100.0, "b": 200.0}, less=True)
    for found in (more, less):
        assert found.gain("a", "b") == pytest.approx(2.0)
        ratio = found.ratio("a", "b")
        assert ratio is not None
        assert ratio.low > 1.9
        assert ratio.claim() == "higher"


def test_only_a_loop_ahead_of_all_others_is_called_first():
    found = found_of({"a": 100.0, "b": 200.0, "c": 150.0})
    assert claims.sentence(found, {}).startswith("b is first: 1.33 times c (")
    made = {(claim["higher"], claim["lower"]) for claim in claims.of_row(found, {})}
    assert made == {("b", "a"), ("b", "c")}


def test_loops_that_cannot_be_told_apart_are_named_together():
    found = found_of(SPEEDS)
    said = claims.sentence(found, {})
    assert "between noria-epoll and noria-poll; noria-epoll: 1.34 times noria-select" in said
    made = {(claim["higher"], claim["lower"]) for claim in claims.of_row(found, {})}
    assert made == {("noria-epoll", "asyncio"), ("noria-epoll", "noria-select")}


def test_where_lower_is_better_the_loop_with_less_is_first():
    found = found_of({"a": 300.0, "b": 600.0}, less=True)
    assert claims.sentence(found, {}).startswith("a is first: b takes 2.00 times as much (")
    (claim,) = claims.of_row(found, {})
    assert (claim["higher"], claim["lower"]) == ("b", "a")
    assert claim["ratio"] == pytest.approx(2.0)


def test_a_difference_within_the_noise_of_its_row_is_not_stated():
    found = found_of({"a": 100.0, "b": 120.0})
    quiet = {"pairs": [{"row": "another", "ratio": 1.5}]}
    noisy = {"pairs": [{"row": "fake", "ratio": 1 / 1.5}]}
    assert "is first" in claims.sentence(found, quiet)
    assert claims.sentence(found, noisy) == f"{claims.SAME}."
    assert claims.of_row(found, noisy) == []


def test_too_few_rounds_state_nothing():
    found = found_of({"a": 100.0, "b": 500.0}, rounds=4)
    assert claims.of_row(found, {}) == []
    assert claims.sentence(found, {}) == "A statement needs 5 rounds."


def test_no_statement_is_made_of_one_loop_or_of_none():
    assert claims.sentence(found_of({"a": 1.0}), {}) == "Only a was measured."
    assert claims.sentence(found_of({}), {}) == "Nothing was measured."


def test_a_server_that_the_load_could_not_keep_busy_gets_a_note():
    found = found_of({"a": 100.0})
    busy = replace(found.samples["a"][0], busy=0.5, waiting=0.0, load_waiting=0.0)
    found.samples["a"] = dict.fromkeys(range(5), busy)
    assert claims.limit_note(found, "a").endswith("50% of the time: the load was the limit")
    found.samples["a"] = dict.fromkeys(range(5), replace(busy, waiting=0.3))
    assert claims.limit_note(found, "a").endswith("other processes used the cores")


# -- the document ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document():
    known = [
        fake("one", group="group", title="the first", about="about it"),
        fake("two", fail={"asyncio": "start", "noria-epoll": 3}, driven=False),
        fake("memory", less=True, interleaved=False, unit="B"),
    ]
    return compare(LOOPS, quick=True, settings=FAST, known=known)


def test_the_document_has_a_row_for_each_loop_with_its_rounds(document):
    assert len(document["rows"]) == 12
    row = document["rows"][2]
    assert (row["row"], row["loop"], row["note"]) == ("one", "noria-poll", "")
    # asyncio, which is measured twice, moves the others to other rounds, but not their number.
    assert row["rounds"]["value"] == [2000.0, 2020.0, 2000.0, 2020.0, 2000.0]
    assert (row["value"], row["lowest"]["value"], row["highest"]["value"]) == (2000, 2000, 2020)
    assert row["busy"] == row["rounds"]["busy"][0] == 0.99


def test_the_document_says_what_was_measured_and_how(document):
    assert document["command"] == f"noria compare loops --quick --loops {','.join(LOOPS)}"
    assert document["quick"] is True
    assert document["rounds"] == 5
    assert [loop["name"] for loop in document["loops"]] == list(LOOPS)
    assert all(loop["available"] and loop["version"] for loop in document["loops"])
    first, _, memory = document["measurements"]
    assert first["first"] == ["noria-epoll", "noria-poll"]
    assert {key: first[key] for key in first if key not in ("sentence", "first")} == {
        "row": "one",
        "group": "group",
        "title": "the first",
        "about": "about it",
        "unit": "/s",
        "lower_is_better": False,
    }
    assert "noria-epoll and noria-poll" in first["sentence"]
    assert memory["sentence"].startswith("asyncio is first: noria-select takes 1.50 times as much")
    assert memory["lower_is_better"] is True


def test_a_loop_without_a_row_has_null_and_the_reason(document):
    found = {row["loop"]: row for row in document["rows"] if row["row"] == "two"}
    assert found["asyncio"]["value"] is None
    assert found["asyncio"]["note"] == "no start"
    assert found["asyncio"]["rounds"]["value"] == [None] * 5
    assert found["noria-epoll"]["note"] == "it died"
    assert found["noria-epoll"]["rounds"]["value"][3:] == [None, None]
    assert found["noria-epoll"]["value"] == 2010.0


def test_a_loop_that_failed_after_a_few_rounds_is_not_in_the_first_group(document):
    two = document["measurements"][1]
    assert two["sentence"].startswith("noria-poll is first")
    assert two["first"] == ["noria-poll"]


def test_there_is_no_first_group_if_no_difference_could_be_measured():
    found = found_of({"a": 100.0, "b": 101.0})
    assert claims.first_group(found, {}) == []


def test_claims_are_those_of_the_rows_and_the_noise_has_a_pair_per_row(document):
    assert {claim["figure"] for claim in document["claims"]} == {"one", "two", "memory"}
    for claim in document["claims"]:
        assert claim["column"] == "value"
        assert claim["at"] == {}
        assert 1 < claim["low"] <= claim["ratio"] <= claim["high"]
    assert [pair["row"] for pair in document["noise"]["pairs"]] == ["one", "two"]
    assert document["noise"]["same_server"] == pytest.approx(1.0, abs=0.02)


def test_progress_goes_from_nothing_to_all():
    steps = []
    compare(
        LOOPS[:2],
        settings=FAST,
        known=[fake("one"), fake("two")],
        progress=lambda done, what: steps.append((done, what)),
    )
    parts = [done for done, _ in steps]
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert parts == sorted(parts)
    assert steps[0][1] == "one: asyncio, 1"


def test_rows_that_do_not_fit_into_the_time_are_skipped_with_a_note():
    short = replace(FAST, budget=0.0)
    document = compare(LOOPS[:2], settings=short, known=[fake("one"), fake("two")])
    assert [row["note"] for row in document["rows"] if row["row"] == "one"] == ["", ""]
    late = [row for row in document["rows"] if row["row"] == "two"]
    assert [(row["value"], row["note"]) for row in late] == [(None, comparison.OUT_OF_TIME)] * 2
    assert document["measurements"][1]["sentence"] == "Nothing was measured."


def test_when_the_time_is_short_there_are_fewer_rounds_but_enough_for_a_statement():
    short = replace(FAST, rounds=9, budget=1.0)
    document = compare(LOOPS[:2], settings=short, known=[fake("one"), fake("two")])
    assert {len(row["rounds"]["value"]) for row in document["rows"]} == {5}
    assert "first" in document["measurements"][1]["sentence"]


def test_ctrl_c_keeps_what_was_measured():
    def progress(done, what):
        if what == "two: noria-select, 2":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        compare(LOOPS[:2], settings=FAST, known=[fake("one"), fake("two")], progress=progress)
    found = stopped.value.results
    assert [row["loop"] for row in found["rows"] if row["row"] == "one"] == list(LOOPS[:2])
    assert "first" in found["measurements"][0]["sentence"]
    (before, _) = [row for row in found["rows"] if row["row"] == "two"]
    assert before["rounds"]["value"] == [1000.0]


def test_a_loop_that_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(loops.importlib.util, "find_spec", lambda name: None)
    document = compare(["rloop", "asyncio"], settings=FAST, known=[fake()])
    assert document["loops"][0] == {
        "name": "rloop",
        "version": "",
        "available": False,
        "reason": "not installed",
        "install": "pip install rloop",
    }
    assert [row["loop"] for row in document["rows"]] == ["asyncio"]


def test_a_model_that_the_system_refuses_is_named_with_the_reason(monkeypatch):
    monkeypatch.setenv("NORIA_IO_URING", "0")
    loop = loops.describe("noria-io_uring")
    assert "NORIA_IO_URING" in loop.reason
    assert loop.install == ""


# -- names -----------------------------------------------------------------------------------------


def test_rows_are_selected_by_name_or_pattern_in_their_order():
    assert [row.name for row in rows.select(["gather", "echo-*"])] == [
        "echo-protocol",
        "echo-streams",
        "echo-tls",
        "gather",
    ]
    assert loops.select(["uvloop", "noria-*", "asyncio"])[:2] == ["uvloop", "noria-select"]


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no row matches 'ech'. Choose from: echo-protocol, "):
        compare(only=["ech"])
    with pytest.raises(ValueError, match=r"no loop matches 'tokio'. Choose from: asyncio, uvloop"):
        compare(["tokio"])


def test_every_row_has_a_name_of_its_own_a_group_and_an_explanation():
    names = [row.name for row in rows.ROWS]
    assert len(set(names)) == len(names)
    assert all(row.group and row.title and row.about for row in rows.ROWS)


def test_importing_noria_imports_nothing_of_the_comparison():
    text = "import noria, sys; print([name for name in sys.modules if 'compare' in name])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
