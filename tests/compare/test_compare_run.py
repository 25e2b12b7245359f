"""A very small run of the experiments: its results, and that no process is left over."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

import noria
from noria import models
from noria.compare.measure import cores, run
from noria.compare.measure.child import Child, ChildFailed
from noria.compare.measure.experiment import Experiment, MessageCost, ServerProcess
from noria.compare.measure.idle import Ladder
from noria.compare.measure.medians import merge_rounds, merge_with_spread
from noria.compare.measure.rounds import Rounds
from noria.compare.measure.servers import Candidate, Servers, candidates
from noria.compare.measure.settings import Settings
from noria.compare.report import page
from support.running import children

# Real measurements, on a machine that may be busy with other tests.
pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("no_process_left")]

TINY = Settings(
    rounds=2,
    seconds=0.1,
    warmup=0.02,
    budget=400.0,
    connections=(1, 10),
    samples=3,
    pause_ms=2.0,
    clients=4,
    hold_ms=10.0,
    idle=(0, 20),
    idle_seconds=0.1,
)
NAMES = ("blocking", "nonblocking", "epoll", "epoll-edge")


@pytest.fixture(scope="module")
def results():
    steps = []
    found = run.run(
        TINY, NAMES, quick=True, only=None, progress=lambda done, what: steps.append((done, what))
    )
    found["steps"] = steps
    return found


def rows(results, name, model):
    return [row for row in results[name]["rows"] if row["model"] == model]


def test_header(results):
    assert results["noria"] == noria.__version__
    assert results["command"] == f"noria compare --quick --models {','.join(NAMES)}"
    assert results["quick"] is True
    assert [model["name"] for model in results["models"]] == list(NAMES)
    assert all(model["available"] for model in results["models"])


def test_progress_goes_from_nothing_to_all(results):
    parts = [done for done, _ in results["steps"]]
    assert parts[0] == 0.0
    assert parts[-1] == 1.0
    assert parts == sorted(parts)
    models, again = len(NAMES), TINY.again
    throughput = (models + again) * TINY.rounds * len(TINY.connections)
    phases = waiting = (models + again) * TINY.rounds
    idle = models * TINY.rounds
    assert len(parts) == throughput + phases + waiting + idle + models + 1


def test_throughput(results):
    assert len(results["throughput"]["rows"]) == len(NAMES) * 2
    for row in results["throughput"]["rows"]:
        if row["messages"] is None:  # the row states that the machine was too busy to measure
            assert row["note"]
            continue
        assert row["messages"] > 0, row
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["p999_us"]
        assert row["user_us"] >= 0
        assert row["cpu_us"] > 0
        assert row["served"] == (1 if row["model"] == "blocking" else row["connections"])
    # One connection: wait, receive, send; blocking waits in its receive.
    assert rows(results, "throughput", "epoll")[0]["syscalls_per_message"] == pytest.approx(3, 0.1)
    alone = rows(results, "throughput", "blocking")[0]
    assert alone["syscalls_per_message"] == pytest.approx(2, 0.1)
    assert rows(results, "throughput", "nonblocking")[0]["empty_asks_per_message"] > 0.5
    assert rows(results, "throughput", "epoll")[0]["empty_asks_per_message"] < 0.1
    assert "one connection" in rows(results, "throughput", "blocking")[1]["note"]


def test_phases_are_in_order(results):
    for model in NAMES:
        found = rows(results, "phases", model)
        assert [row["sample"] for row in found] == list(range(TINY.rounds * TINY.samples))
        assert [row["round"] for row in found] == [0] * TINY.samples + [1] * TINY.samples
        for row in found:
            assert row["sent"] == 0 <= row["arrived"] <= row["returned"]
            assert row["asked"] < row["copy_end"] <= row["handler"]
            # The clocks compared here, of the sender and its kernel, agree within 10 µs.
            assert row["arrived"] <= row["copy_end"] + 10_000
            if row["copy_begin"] is not None:
                assert row["copy_begin"] <= row["copy_end"]
            if row["ready"] is not None:
                assert row["asked"] < row["ready"] <= row["copy_begin"]
    assert all(row["ready"] is None for row in rows(results, "phases", "blocking"))
    assert all(row["copy_begin"] is None for row in rows(results, "phases", "blocking"))
    assert all(row["ready"] is not None for row in rows(results, "phases", "epoll"))
    assert any(row["asks"] > 0 for row in rows(results, "phases", "nonblocking"))
    assert min(row["asked"] for row in rows(results, "phases", "epoll")) < 0


def test_waiting(results):
    times = {
        name: [row["first_answer_ms"] for row in rows(results, "waiting", name)] for name in NAMES
    }
    assert all(len(each) == TINY.clients for each in times.values())
    # Each client waits until those before it have disconnected.
    for number, ms in enumerate(sorted(times["blocking"])):
        assert ms >= number * TINY.hold_ms
    assert sorted(times["epoll"])[1] < sorted(times["blocking"])[-1]


def test_idle(results):
    for name in NAMES:
        found = rows(results, "idle", name)
        assert [row["idle"] for row in found] == [0, 20]
        for row in found:
            if name == "blocking" and row["idle"]:
                assert row["us_per_message"] is None
                assert "one connection" in row["note"]
            elif row["us_per_message"] is None:  # too busy to measure on
                assert row["note"]
            else:
                assert row["us_per_message"] > 0, row
                assert row["cpu_us_per_message"] > 0


def test_triggers(results):
    by_model = {row["model"]: row for row in results["triggers"]["rows"]}
    assert set(by_model) == {"epoll", "epoll-edge"}
    assert by_model["epoll"]["told"] == by_model["epoll"]["asks"] == TINY.polls
    assert by_model["epoll-edge"]["told"] == 1
    assert by_model["epoll-edge"]["told_of_more"] == 1


def test_every_number_has_its_rounds(results):
    for name, column in (
        ("throughput", "messages_per_second"),
        ("waiting", "first_answer_ms"),
        ("idle", "cpu_us_per_message"),
    ):
        for row in results[name]["rows"]:
            rounds = row["rounds"][column]
            numbers = [value for value in rounds if value is not None]
            assert len(rounds) == TINY.rounds
            assert row["lowest"][column] == min(numbers, default=None)
            assert row["highest"][column] == max(numbers, default=None)
            if numbers:
                assert row["lowest"][column] <= row[column] <= row["highest"][column]


def test_noise_is_measured(results):
    noise = results["noise"]
    assert noise["pairs"] == [], "two rounds are too few for the rule"
    assert noise["same_server"] is None
    assert 0 <= noise["other_share"] <= 1
    assert noise["noisy"] == bool(noise["warning"])


def test_the_same_server_is_measured_against_itself():
    short = replace(TINY, rounds=5, seconds=0.03, connections=(1,), processes=1)
    only = ["throughput", "phases", "waiting"]
    found = run.run(short, ["epoll"], quick=True, only=only, progress=None)
    [row] = found["throughput"]["rows"]
    assert len(row["rounds"]["cpu_us"]) == 5
    assert {row["client"] for row in found["waiting"]["rows"]} == set(range(TINY.clients))
    assert len(found["waiting"]["rows"]) == TINY.clients
    assert len(found["phases"]["rows"]) == 5 * TINY.samples
    pairs = found["noise"]["pairs"]  # fewer if the machine was too busy in one of the rounds
    for pair in pairs:
        assert pair["model"] == "epoll"
        assert pair["figure"] in only
        assert pair["low"] <= pair["ratio"] <= pair["high"]
    assert not pairs or found["noise"]["same_server"] >= 1


def test_a_model_with_one_connection_is_measured_with_several_only_as_often_as_set():
    short = replace(TINY, rounds=3, seconds=0.03, connections=(1, 2), unserved_rounds=1)
    found = run.run(short, ["blocking"], quick=True, only=["throughput"], progress=None)
    alone, several = found["throughput"]["rows"]
    assert None not in alone["rounds"]["messages"]
    assert several["rounds"]["messages"][1:] == [None, None]


def test_the_page_can_be_rendered_from_it(results):
    assert "epoll-edge" in page.render(results)


def test_select_reports_where_it_stops():
    tiny = Settings(
        rounds=2, seconds=0.1, warmup=0.02, budget=30.0, idle=(0, 1100), idle_seconds=0.1
    )
    found = run.run(tiny, ["select"], quick=True, only=["idle"], progress=None)
    first, second = found["idle"]["rows"]
    assert first["us_per_message"] > 0
    assert second["us_per_message"] is None
    assert second["cpu_us_per_message"] is None
    assert "cannot watch descriptor 1024" in second["note"]


def test_a_refused_model_is_skipped(monkeypatch):
    monkeypatch.setattr(models, "availability", lambda name: (name != "poll", "not today"))
    found = run.run(TINY, ["poll", "select"], quick=True, only=["triggers"], progress=None)
    assert [(m["available"], m["reason"]) for m in found["models"]] == [
        (False, "not today"),
        (True, "not today"),
    ]
    assert [row["model"] for row in found["triggers"]["rows"]] == ["select"]


def test_one_failure_leaves_the_rest(monkeypatch):
    whole = ServerProcess.listening

    def broken(child, experiment):
        if "poll" in child.process.args:
            raise ChildFailed("it broke")
        return whole(child, experiment)

    monkeypatch.setattr(ServerProcess, "listening", broken)
    found = run.run(TINY, ["poll", "epoll"], quick=True, only=["waiting"], progress=None)
    assert {row["note"] for row in rows(found, "waiting", "poll")} == {"it broke"}
    assert all(row["first_answer_ms"] is None for row in rows(found, "waiting", "poll"))
    assert all(row["first_answer_ms"] > 0 for row in rows(found, "waiting", "epoll"))


def test_rows_report_that_the_time_is_over():
    none = Settings(rounds=1, seconds=0.1, warmup=0.0, budget=0.0, connections=(1,))
    started = time.monotonic()
    found = run.run(none, ["epoll"], quick=True, only=None, progress=None)
    assert time.monotonic() - started < 5
    for name in run.MEASUREMENTS:
        assert all("out of time" in row["note"] for row in found[name]["rows"]), name


def test_unknown_names_are_refused():
    with pytest.raises(noria.UnknownModel):
        run.compare(["kqueue"], quick=True)
    with pytest.raises(ValueError, match="unknown measurement"):
        run.compare(["epoll"], quick=True, only=["weather"])


def test_a_child_that_dies_reports_why():
    with (
        Child("noria.compare.measure.server", "kqueue") as child,
        pytest.raises(ChildFailed) as failed,
    ):
        child.receive(10)
    assert "kqueue" in str(failed.value)


def test_a_child_that_writes_something_else_than_json_is_reported():
    with (
        Child("this") as child,
        pytest.raises(ChildFailed, match=r"wrote 'The Zen of Python.* instead of a reply"),
    ):
        child.receive(10)


def test_a_child_that_closes_its_output_and_does_not_end_is_reported(tmp_path, monkeypatch):
    (tmp_path / "quiet.py").write_text("import os, time\nos.close(1)\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("noria.compare.measure.child.EXIT_SECONDS", 0.05)
    with Child("quiet") as child, pytest.raises(ChildFailed, match="did not end"):
        child.receive(10)


def test_no_server_is_left_if_its_start_is_interrupted(monkeypatch):
    def interrupted(child, experiment):
        raise KeyboardInterrupt

    monkeypatch.setattr(ServerProcess, "listening", interrupted)
    before = children()
    with Experiment(TINY) as experiment:
        with pytest.raises(KeyboardInterrupt), Servers(experiment, [Candidate("epoll")]):
            pass
        assert children() == before


@pytest.mark.parametrize("paused", [False, True])
def test_a_child_does_not_outlive_its_parent(paused):
    code = f"""
        import os, signal
        from noria.compare.measure.child import Child
        with Child("noria.compare.measure.server", "epoll") as child:
            pid = child.receive(10)["pid"]
            if {paused}:
                child.pause()
                os.waitid(os.P_PID, pid, os.WSTOPPED)
            print(pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, timeout=20
    )
    assert done.returncode == -signal.SIGKILL
    gone(int(done.stdout))


@pytest.mark.parametrize("question", ["throughput", "idle"])
def test_ctrl_c_ends_every_process(question):
    code = f"""
        from noria.compare.measure import run
        run.compare(["epoll", "threaded"], only=["{question}"],
                    progress=lambda done, what: print(what, flush=True))
    """
    # A process group, as a shell creates it: Ctrl-C reaches all its processes.
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        until = time.monotonic() + 10
        while len(started := children(process.pid)) < 5:
            assert time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert b"KeyboardInterrupt" in errors
    for pid in started:
        gone(pid)


def gone(pid: int) -> None:
    """Wait until the process has exited."""
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return  # a zombie that its new parent has not reaped yet
        assert time.monotonic() < until, f"process {pid} still exists"
        time.sleep(0.01)


class Recorded(Experiment):
    """An experiment without processes; its clock only moves when a measurement takes time."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.now = 0.0
        self.deadline = settings.budget

    @property
    def time_left(self) -> float:
        return self.deadline - self.now


def take(experiment, monkeypatch, seconds, models=("a", "b", "c")):
    """Take rounds that last `seconds` for each model; return the order and the note."""
    order = []
    monkeypatch.setattr(time, "monotonic", lambda: experiment.now)

    def one(candidate, number):
        experiment.now += seconds
        order.append((number, candidate.model))
        return number

    measured = [Candidate(name) for name in models]
    rounds = Rounds(experiment, measured)
    found, note = rounds.take("x", one)
    assert all(numbers == list(range(len(numbers))) for numbers in found.values())
    return rounds, order, note


def test_each_round_begins_with_another_model(monkeypatch):
    experiment = Recorded(replace(TINY, rounds=4))
    _, order, note = take(experiment, monkeypatch, 0.1)
    assert [name for _, name in order] == [*"abc", *"bca", *"cab", *"abc"]
    assert note == ""


def test_a_slow_machine_leaves_out_later_sizes_before_rounds(monkeypatch):
    experiment = Recorded(replace(TINY, rounds=7, budget=10.0))
    rounds, order, note = take(experiment, monkeypatch, 0.4)
    assert len(order) == 7 * 3
    assert note == ""
    before = experiment.done
    found, note = rounds.take("larger", lambda candidate, number: number)
    assert found == {candidate: [] for candidate in rounds.candidates}
    assert note == "not measured: out of time"
    assert experiment.done == before + 7 * 3


def test_a_later_size_with_too_few_rounds_is_dropped(monkeypatch):
    experiment = Recorded(replace(TINY, rounds=7, budget=10.0))
    rounds, _, _ = take(experiment, monkeypatch, 0.1)
    measured = []

    def slow(candidate, number):
        experiment.now += 1.0
        measured.append(number)

    found, note = rounds.take("larger", slow)
    assert measured == [0, 0, 0], "four more do not fit: no second round"
    assert found == {candidate: [] for candidate in rounds.candidates}
    assert note == "not measured: out of time"


def test_rounds_end_at_the_deadline(monkeypatch):
    experiment = Recorded(replace(TINY, rounds=7, budget=10.0))
    _, order, note = take(experiment, monkeypatch, 1.0)
    assert note == "3 of 7 rounds: out of time"
    assert [number for number, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_highest_numbers_of_idle_connections_are_left_out_first():
    experiment = Recorded(replace(TINY, rounds=7, idle=(0, 10, 100, 1000), budget=10.0))
    ladder = Ladder(experiment)
    ladder.seconds = {0: 0.5, 10: 0.5, 100: 0.8, 1000: 4.0}
    assert ladder.leave_out(6.0) == pytest.approx(2.0)
    assert ladder.counts == (0, 10, 100)
    experiment.now = 9.0
    assert ladder.leave_out(2.0) == pytest.approx(1.2)
    assert ladder.counts == (0, 10), "fewer cannot be compared"


def test_rounds_that_were_shortened_are_taken(monkeypatch):
    experiment = Recorded(replace(TINY, rounds=5, budget=10.0))
    monkeypatch.setattr(time, "monotonic", lambda: experiment.now)

    def slow_at_first(candidate, number):
        experiment.now += 1.0 if number else 5.5

    found, note = Rounds(experiment, [Candidate("a")]).take("x", slow_at_first, lambda _: 1.0)
    assert len(found[Candidate("a")]) == 5
    assert note == ""


def test_a_server_that_fails_is_replaced_and_one_that_cannot_start_is_not(monkeypatch):
    with Experiment(replace(TINY, processes=1)) as experiment:
        epoll = Candidate("epoll")
        with Servers(experiment, [epoll]) as servers:
            with servers.running(epoll, 0) as server:
                first = server.pid
                assert server.stats()["open"] == 0
            with pytest.raises(ChildFailed, match="no reply"), servers.running(epoll, 1):
                raise ChildFailed("no reply")
            with servers.running(epoll, 2) as server:
                assert server.pid != first
                assert server.stats()["open"] == 0
        unknown = Candidate("kqueue")
        with Servers(experiment, [unknown]) as servers:
            for _ in range(2):
                with pytest.raises(ChildFailed, match="kqueue"), servers.running(unknown, 0):
                    pass


def test_servers_are_paused_while_others_are_measured():
    def state(server):
        status = Path(f"/proc/{server.pid}/status").read_text()
        return status.partition("State:\t")[2][0]

    def reaches(server, *letters):
        until = time.monotonic() + 10
        while state(server) not in letters:
            assert time.monotonic() < until
            time.sleep(0.001)

    with Experiment(replace(TINY, processes=1)) as experiment:
        both = [Candidate("epoll"), Candidate("nonblocking")]
        with Servers(experiment, both) as servers:
            with servers.running(both[1], 0) as other:
                pass
            with servers.running(both[0], 0) as server:
                reaches(other, "T")
                reaches(server, "S", "R")
            reaches(server, "T")


def test_candidates_measured_again_are_steady_models():
    assert candidates(["blocking", "threaded", "select", "epoll", "io_uring"], 2)[5:] == [
        Candidate("io_uring", again=True),
        Candidate("select", again=True),
    ]
    assert candidates(["blocking"], 1) == [Candidate("blocking"), Candidate("blocking", again=True)]
    assert candidates([], 1) == []


def test_use_for_each_message():
    zero = dict.fromkeys(noria.Reactor("epoll").loop.model.stats(), 0)
    after = zero | {"bytes_in": 4096, "waits": 4, "receives": 6, "empty_receives": 2, "sends": 4}
    cost = MessageCost.between(
        {"counters": zero, "user": 1.0, "kernel": 2.0},
        {"counters": after, "user": 1.004, "kernel": 2.008},
        1024,
    )
    assert cost is not None
    assert cost.user_us == pytest.approx(1000)
    assert cost.kernel_us == pytest.approx(2000)
    assert cost.syscalls == 3.5
    assert cost.empty_polls == 0.5
    same = {"counters": zero, "user": 1.0, "kernel": 2.0}
    assert MessageCost.between(same, same, 1024) is None


def test_rounds_become_medians():
    merged = merge_rounds(
        [
            {"model": "a", "n": 1, "x": 1.0, "k": 3, "note": ""},
            {"model": "a", "n": 1, "x": 9.0, "k": 4, "note": "odd"},
            {"model": "a", "n": 1, "x": 2.0, "k": 9, "note": "odd"},
            {"model": "a", "n": 2, "x": None, "k": None, "note": "none"},
        ],
        ("model", "n"),
    )
    assert merged == [
        {"model": "a", "n": 1, "x": 2.0, "k": 4, "note": "odd"},
        {"model": "a", "n": 2, "x": None, "k": None, "note": "none"},
    ]


def test_rounds_keep_their_order_and_their_gaps():
    [merged] = merge_with_spread(
        [
            {"model": "a", "n": 1, "x": 1.0, "note": ""},
            {"model": "a", "n": 1, "x": None, "note": "odd"},
            {"model": "a", "n": 1, "x": 5.0, "note": ""},
        ],
        ("model", "n"),
        5,
    )
    assert merged == {
        "model": "a",
        "n": 1,
        "x": 3.0,
        "note": "odd",
        "rounds": {"x": [1.0, None, 5.0, None, None]},
        "lowest": {"x": 1.0},
        "highest": {"x": 5.0},
    }


def test_two_cores_are_two_different_ones():
    assert cores.pair({3}) is None
    for allowed in ({0, 1}, {2, 5, 7}):
        found = cores.pair(allowed)
        assert found is not None
        assert set(found) <= allowed
        assert found[0] != found[1]


def test_notes_that_differ_only_in_numbers_are_shown_once():
    rows = [
        {"model": "select", "note": "442 of 1,000 refused"},
        {"model": "select", "note": "110 of 1,000 refused"},
        {"model": "select", "note": "slow"},
    ]
    assert merge_rounds(rows, ("model",)) == [
        {"model": "select", "note": "442 of 1,000 refused; slow"},
    ]


def test_two_samples_in_one_receive_are_two():
    from noria.compare.measure.server import Sampler

    class Model:
        def last_timestamps(self):
            return (1, 2, 3, 4, 0)

    samples: list[list[int]] = []
    sampler = Sampler(Model(), 4, samples)
    for data in (b"abc", b"defgh", b"ijkl"):
        sampler.data_received(data)
    assert [sample[-1] for sample in samples] == [2, 1, 1]
