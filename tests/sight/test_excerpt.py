"""An interval of a recording has what happened in it, at the times at which it happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from noria.cli.main import run
from noria.sight.excerpt import limits, select
from noria.sight.observation import Observation
from noria.sight.observer import Observer
from noria.sight.recording import Recording, feed_recording, observe_recording
from support.recordings import BASE, MS, REALTIME, Ring, synthetic_recording, write_recording


def observed(path: Path, begin: int, end: int) -> Observation:
    with Recording.open(path) as recording:
        select(recording, begin, end)
        observer = Observer()
        feed_recording(observer, recording)
        return observer.observe()


def test_the_parts_of_a_recording_have_all_of_its_handlers(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    synthetic_recording(path)
    whole = observe_recording(path)
    with Recording.open(path) as recording:
        first, last = limits(recording)
    assert (first, last) == (BASE, whole.now)
    for middle in (first + 1, first + 60 * MS, first + 200 * MS, last - 1, last):
        parts = [observed(path, first, middle), observed(path, middle, last + 1)]
        assert sum(part.loops[0].events for part in parts) == whole.loops[0].events
        assert sum(part.loops[0].records for part in parts) == whole.loops[0].records
        received = sum(each.bytes_in for part in parts for each in part.loops[0].connections)
        assert received == 10240


def test_blocks_and_snapshots_outside_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    synthetic_recording(path)
    (block,) = observe_recording(path).loops[0].blocks
    assert not observed(path, BASE, block.started).loops[0].blocks
    assert not observed(path, block.started + block.duration + MS, BASE * 2).loops[0].blocks
    (inside,) = observed(path, block.started - MS, block.started + block.duration + MS).loops
    assert [each.stack[-1].line for each in inside.blocks] == [47]
    # Peers are known from the last snapshot before the interval.
    assert {each.peer for each in inside.connections} >= {"127.0.0.1:81"}


def test_times_are_those_of_the_whole_although_the_header_estimates_the_clock(
    tmp_path: Path,
) -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    for number in range(40):
        # The header says 1 ns a tick, in truth it is 1.04.
        now = round((ring.time + 25 * MS) * 1.04)
        ring.put("CLOCK", BASE + now, REALTIME + now, after=25 * MS)
        ring.turn()
        ring.call(ring.intern("code", f"f{number}", "/srv/f.py", number))
    ring.put("RUN_END", after=MS)
    path = tmp_path / "x.noria"
    write_recording(path, {0: ring}, [])
    whole = {call.place.line: call.started for call in observe_recording(path).loops[0].slow}
    part = observed(path, whole[20], whole[30] + 1)
    found = {call.place.line: call.started for call in part.loops[0].slow}
    assert set(found) == set(range(20, 30))  # the call that began last has not ended
    for line, started in found.items():
        assert abs(started - whole[line]) < 1000
    assert abs(part.realtime - part.now - (REALTIME - BASE)) < 1000


@pytest.mark.parametrize("busy", [True, False])
def test_an_interval_without_records_shows_what_the_loop_did(tmp_path: Path, busy: bool) -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    ring.queue()
    ring.turn(after=MS)
    ring.step(0x9000, ring.intern("code", "computes", "/srv/a.py", 3))
    ring.put("SEND", 5, 100, after=MS)
    if not busy:
        ring.put("WAIT", -1)
    begin = BASE + ring.time + 100 * MS
    ring.put("POLL" if busy else "WOKE", after=900 * MS)
    ring.put("RUN_END", after=MS)
    path = tmp_path / "x.noria"
    write_recording(path, {0: ring}, [])
    part = observed(path, begin, begin + 50 * MS)
    (loop,) = part.loops
    assert (loop.begin, loop.end, loop.running) == (begin, begin + 50 * MS, True)
    assert (loop.busy, loop.waiting) == ((50 * MS, 0) if busy else (0, 50 * MS))
    assert loop.utilization == busy
    assert part.realtime - part.now == REALTIME - BASE
    assert (loop.running_call is not None) == busy
    if loop.running_call is not None:
        assert loop.running_call.place.function == "computes"


def test_a_loop_that_did_not_run_in_the_interval_has_no_time(tmp_path: Path) -> None:
    first, second = Ring(), Ring()
    for ring in (first, second):
        ring.put("RUN_BEGIN", 7)
        ring.put("RUN_END", after=MS)
    second.put("RUN_BEGIN", 7, after=900 * MS)
    path = tmp_path / "x.noria"
    write_recording(path, {0: first}, [])
    assert observed(path, BASE + 2 * MS, BASE + 3 * MS).realtime == 0
    write_recording(path, {0: first, 1: second}, [])
    part = observed(path, BASE + 2 * MS, BASE + 3 * MS)
    assert [(loop.records, loop.end - loop.begin) for loop in part.loops] == [(0, 0), (0, 0)]
    assert part.realtime == 0


def test_the_command_takes_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2", reason="part of noria[cli]")
    monkeypatch.chdir(tmp_path)
    synthetic_recording(tmp_path / "run.noria")
    assert run(["report", "run.noria", "--to", "0.1", "--text"]) == 0
    assert "blocks the loop" not in capsys.readouterr().out
    assert run(["report", "run.noria", "--from", "0.1", "--to", "0.6", "--text"]) == 0
    assert "Report.render blocks the loop" in capsys.readouterr().out
    assert run(["report", "run.noria", "--from", "0.1", "--perfetto", "run.json"]) == 0
    assert run(["report", "run.noria", "--from", "0.1", "--output", "run.html"]) == 0
    assert "Report.render" in Path("run.html").read_text()
    assert run(["report", "run.noria", "--from", "0.2", "--to", "0.21", "--text"]) == 0
    text = capsys.readouterr().out
    assert "observed      10 ms" in text
    assert "utilisation   100.0%" in text
    assert "recorded until 2023-11-1" in text
    assert run(["report", "run.noria", "--from", "60"]) == 1
    assert "has nothing from 60 s on" in capsys.readouterr().err
    assert run(["report", "run.noria", "--from", "2", "--to", "1"]) == 2
    assert run(["report", "run.noria", "--from", "-1"]) == 2
