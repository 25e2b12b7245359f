"""A very small run of the experiments: its results, and that no process is left over."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import noria
from noria import models
from noria.compare.measure import cores, run
from noria.compare.measure.child import Child, ChildFailed
from noria.compare.measure.experiment import Experiment, MessageCost
from noria.compare.measure.medians import merge_rounds
from noria.compare.measure.settings import Settings
from noria.compare.report import page

TINY = Settings(
    rounds=1,
    seconds=0.1,
    warmup=0.02,
    budget=30.0,
    connections=(1, 10),
    samples=5,
    pause_ms=2.0,
    clients=4,
    hold_ms=10.0,
    repeats=1,
    idle=(0, 20),
    idle_seconds=0.1,
)
NAMES = ("blocking", "nonblocking", "epoll", "epoll-edge")


def children(pid: int | str = "self") -> set[int]:
    """Return the child processes that still exist."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found.update(map(int, (task / "children").read_text().split()))
    return found


@pytest.fixture(autouse=True)
def no_process_left():
    before = children()
    yield
    assert children() <= before


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
    assert len(parts) == len(NAMES) * (2 + 1 + 1 + 2 + 1) + 1


def test_throughput(results):
    assert len(results["throughput"]["rows"]) == len(NAMES) * 2
    for row in results["throughput"]["rows"]:
        if row["messages"] is None:  # the row states that the machine was too busy to measure
            assert row["note"]
            continue
        assert row["messages"] > 0, row
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["p999_us"]
        assert row["user_us"] >= 0
        assert row["user_us"] + row["kernel_us"] > 0
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
        assert [row["sample"] for row in found] == list(range(TINY.samples))
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


def test_the_page_can_be_rendered_from_it(results):
    assert "epoll-edge" in page.render(results)


def test_select_reports_where_it_stops():
    tiny = Settings(
        rounds=1, seconds=0.1, warmup=0.02, budget=30.0, idle=(0, 1100), idle_seconds=0.1
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
    whole = Experiment.server

    def broken(self, model, *arguments):
        if model == "poll":
            raise ChildFailed("it broke")
        return whole(self, model, *arguments)

    monkeypatch.setattr(Experiment, "server", broken)
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


def test_a_child_does_not_outlive_its_parent():
    code = """
        import os, signal
        from noria.compare.measure.child import Child
        with Child("noria.compare.measure.server", "epoll") as child:
            print(child.receive(10)["pid"], flush=True)
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
        while len(started := children(process.pid)) < 2:
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
