"""Real processes of `noria compare loops`: a very small run, and that no process is left."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from noria.compare.loops import loops, network, rows, run
from noria.compare.loops.comparison import Settings, compare
from noria.compare.loops.process import LoadProcess
from noria.compare.loops.row import Unavailable
from noria.compare.measure.child import Child
from support.running import children

# Real measurements, on a machine that may be busy with other tests.
pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("no_process_left")]

NAMES = ("asyncio", "noria-epoll")
TINY = Settings(rounds=2, seconds=0.02, least=0.01, warmup=0.005, budget=500.0)


def exists(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=20.0):
    latest = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < latest, "it did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("name", [row.name for row in rows.ROWS if row.name != "http-uvicorn"])
def test_every_row_is_measured_on_both_loops(name):
    # A run for each row: with a common one, each worker of pytest-xdist would measure all rows.
    document = compare(NAMES, only=[name], settings=TINY)
    found = {row["loop"]: row for row in document["rows"]}
    assert list(found) == list(NAMES)
    for row in found.values():
        assert row["row"] == name
        assert row["value"] > 0, row["note"]
        assert len(row["rounds"]["value"]) == 2
        assert all(value > 0 for value in row["rounds"]["value"])
        if name == "memory-idle":
            assert row["busy"] is None
        else:
            assert 0 < row["busy"] < 3
    assert json.loads(json.dumps(document)) == document


def test_http_is_measured_where_uvicorn_is_installed():
    pytest.importorskip("uvicorn")
    document = compare(NAMES, only=["http-*"], settings=TINY)
    assert [row["value"] > 0 for row in document["rows"]] == [True, True]


def test_a_missing_package_is_the_reason_of_the_row():
    with run.at_place(seconds=0.02) as place:
        row = rows.select(["call_soon"])[0]
        found = run.measure_row(row, ["no_such_loop", "asyncio"], place, rounds=1)
    assert found.unavailable == {"no_such_loop": "not installed: pip install no_such_loop"}
    assert list(found.samples) == ["asyncio"]


def test_a_server_that_dies_is_skipped_and_the_others_are_measured():
    row = rows.select(["echo-protocol"])[0]

    def step(row, loop, number):
        if (loop, number) == ("asyncio", 1):
            (server,) = [
                pid
                for pid in children()
                if "\0asyncio\0" in Path(f"/proc/{pid}/cmdline").read_text()
            ]
            os.kill(server, signal.SIGKILL)
            until(lambda: not exists(server))

    with run.at_place(seconds=0.02) as place:
        found = run.measure_row(row, NAMES, place, rounds=3, step=step)
    assert list(found.failures) == ["asyncio"]
    assert len(found.values("asyncio")) == 1
    assert len(found.values("noria-epoll")) == 3


def test_the_load_reports_a_refused_connection_and_can_be_used_again():
    clients = LoadProcess(None)
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match="refused"):
                clients.request("end_connections", port=1)
        (pid,) = clients.pids
    finally:
        clients.end()
    assert not exists(pid)
    assert clients.pids == ()
    clients.end()


def test_a_load_that_is_interrupted_is_ended_and_not_started_again_to_close(monkeypatch, place):
    clients = place.clients
    with pytest.raises(Unavailable, match="refused"):
        clients.request("end_connections", port=1)
    (pid,) = clients.pids

    def interrupted(child, seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(Child, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clients.request("end_connections", port=1)
    assert clients.pids == ()
    assert not exists(pid)
    network.Server("asyncio", SimpleNamespace(pid=pid), place).close()
    assert clients.pids == ()


def test_a_restarted_load_says_that_it_has_no_connections(place):
    for _ in range(2):
        with pytest.raises(Unavailable, match="the load was restarted"):
            place.clients.request("run", name="asyncio", seconds=0.1, warmup=0, cpu_time=False)


@pytest.fixture
def place():
    with run.at_place(seconds=0.02) as place:
        yield place


PROGRAM = """
import sys
from noria.compare.loops.comparison import Interrupted, Settings, compare

def progress(done, what):
    print(what, flush=True)

settings = Settings(rounds=1000, seconds=0.05, least=0.05, warmup=0.005, budget=100.0)
try:
    compare(["asyncio", "noria-epoll"], only=["echo-protocol"], settings=settings,
            progress=progress)
except Interrupted as stopped:
    print("rows", len(stopped.results["rows"]), flush=True)
    sys.exit(130)
"""


@pytest.fixture
def program():
    """A comparison in a process of its own, in the middle of its measurements."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith(", 3\n"):
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_every_process_and_keeps_what_was_measured(program):
    started = children(program.pid)
    assert len(started) == 4  # three servers, of which at least two are stopped, and the load
    program.send_signal(signal.SIGINT)
    rest = program.communicate(timeout=20)[0]
    assert program.returncode == 130
    assert rest.endswith("rows 2\n")
    assert not any(map(exists, started))


def test_the_processes_end_with_their_parent_even_those_that_are_stopped(program):
    started = children(program.pid)
    assert len(started) == 4
    program.kill()
    program.wait()
    until(lambda: not any(map(exists, started)))


def test_the_loops_of_noria_are_those_of_its_models_that_drive_asyncio():
    import noria

    for name in noria.MODELS:
        drives = True
        try:
            noria.new_event_loop(name).close()
        except noria.Unsupported:
            drives = False
        except noria.ModelUnavailable:
            continue
        assert (f"noria-{name}" in loops.NORIA) == drives
