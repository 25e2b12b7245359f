"""Recordings: what is written is read, and damaged files give errors that say where."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.recordings import (
    BASE,
    HEADER,
    MS,
    REALTIME,
    Ring,
    snapshot,
    synthetic_recording,
    write_recording,
)
from tests.support.recordings import blocked as blocked_loop

import noria
from noria._core.recorder.ring import Recorder
from noria.errors import RecordingError
from noria.sight import dump
from noria.sight.findings import Thresholds, find
from noria.sight.observer import Observer
from noria.sight.recording import (
    RECORDS,
    Recording,
    create_file,
    observe_recording,
    write_magic,
)
from noria.sight.report.text import render


def test_a_recording_has_the_figures_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    synthetic_recording(path, "everything")
    observation = observe_recording(path)
    (loop,) = observation.loops
    assert (observation.pid, observation.command) == (4242, "python -m service")
    assert loop.model == "epoll"
    assert not loop.running
    assert loop.begin + 500 * MS < loop.end == observation.now
    assert loop.busy + loop.waiting == loop.end - loop.begin
    (block,) = loop.blocks
    assert block.ended
    assert 400 * MS < block.duration < 401 * MS
    assert block.stack[-1].line == 47
    assert block.task == "renderer"
    assert block.events_waiting == 20
    assert block.delay_share > 0.99
    echo, paused = loop.connections
    assert (echo.bytes_in, echo.bytes_out, echo.receives, echo.sends) == (10240, 10240, 10, 10)
    assert echo.peer == "127.0.0.1:5000"
    assert echo.protocol == "service.Echo"
    assert paused.unread == 70_000
    assert paused.reading_paused_since
    assert str(paused.paused_at) == "Client.open (/srv/client.py:17)"
    assert {task.name: task.state for task in loop.tasks} == {
        "spin": "waiting",
        "sleeper": "waiting",
        "worker": "waiting",
        "renderer": "done",
        "Task-4000": "done",
        "Task-4040": "done",
    }
    assert loop.system_calls["waits"] == 11
    assert loop.calls == 11 + 10 + 10 + 1 + 3


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    path.write_bytes(b"#!/usr/bin/python")
    with pytest.raises(RecordingError, match="is not a recording"):
        Recording.open(path)


def test_a_truncated_recording_opens(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    synthetic_recording(path)
    whole = path.read_bytes()
    for cut in (1, 100, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        with Recording.open(path) as recording:
            assert recording.truncated
        assert observe_recording(path).pid == 4242


@pytest.mark.parametrize(
    ("kept", "records", "ignored"), [(-10, 0, 6), (0, 0, 16), (23, 0, 39), (24, 1, 0), (71, 2, 23)]
)
def test_the_records_before_a_cut_are_read(
    tmp_path: Path, kept: int, records: int, ignored: int
) -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    for _ in range(9):
        ring.put("WAIT", -1, after=MS)
    path = tmp_path / "x.noria"
    write_recording(path, {0: ring}, [])
    with Recording.open(path) as recording:
        offset = next(chunk.offset for chunk in recording.chunks() if chunk.kind == RECORDS)
        assert (recording.truncated, recording.ignored) == (False, 0)
    path.write_bytes(path.read_bytes()[: offset + kept])
    with Recording.open(path) as recording:
        assert (recording.truncated, recording.ignored) == (True, ignored)
    observation = observe_recording(path)
    assert observation.loops[0].records == records
    assert observation.realtime == (REALTIME + (records - 1) * MS if records else 0)


def test_a_task_that_took_the_address_of_one_of_the_last_snapshot() -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    ring.put("TASK_CREATED", 0x200, 0x9000)
    ring.put("WAIT", -1, after=MS)
    observer = Observer()
    observer.feed_loop({"id": 0, "header": HEADER})
    observer.feed_ring(0, bytes(ring.records))
    tasks = [{"id": 0x9000, "name": "first", "state": "waiting"}]
    observer.feed_snapshot(snapshot(ring, tasks=tasks, tasks_alive=1))
    ring.records.clear()
    ring.put("TASK_CREATED", 0x300, 0x9000, after=MS)
    observer.feed_ring(0, bytes(ring.records))
    second, first = observer.observe().loops[0].tasks
    assert (first.name, first.state) == ("first", "done")
    assert (second.name, second.state, second.created) == ("", "scheduled", BASE + 2 * MS)


def test_a_task_that_waits_for_a_lost_future_until_it_is_cancelled() -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    ring.put("TASK_CREATED", 0x200, 0x9000)
    ring.queue()
    ring.turn()
    ring.step(0x9000, 0x200)
    observer = Observer()
    observer.feed_loop({"id": 0, "header": HEADER})
    task = {"id": 0x9000, "state": "waiting", "orphaned": True, "waiting_since": BASE}
    for _ in range(2):
        ring.wait(MS, 0)
        observer.feed_snapshot(snapshot(ring, tasks=[task], tasks_alive=1))
    ring.queue()
    ring.turn(after=MS)
    ring.step(0x9000, 0x200)
    observer.feed_ring(0, bytes(ring.records))
    (found,) = observer.observe().loops[0].tasks
    assert found.orphaned
    assert found.waiting_since == BASE + MS  # the first snapshot that says so


def observer_of(ring: Ring) -> Observer:
    """Return an observer of the ring's records, which are removed from it."""
    observer = Observer()
    observer.feed_loop({"id": 0, "header": HEADER})
    feed(observer, ring)
    return observer


def feed(observer: Observer, ring: Ring) -> None:
    observer.feed_ring(0, bytes(ring.records))
    ring.records.clear()


def waiting_task(ring: Ring) -> None:
    ring.put("RUN_BEGIN", 7)
    ring.put("TASK_CREATED", 0x200, 0x9000)
    ring.queue()
    ring.turn()
    ring.step(0x9000, 0x200)
    ring.wait(MS, 0, after=MS)


def cancelled(ring: Ring) -> None:
    ring.queue()
    ring.turn(after=MS)
    ring.step(0x9000, 0x200)
    ring.wait(MS, 0, after=MS)


def test_a_task_that_waits_for_a_lock_until_it_is_cancelled_has_waited_since_then() -> None:
    ring = Ring()
    waiting_task(ring)
    observer = observer_of(ring)
    first = BASE + ring.time
    tasks = [{"id": 0x9000, "state": "waiting", "waiting_for": "Lock"}]
    for _ in range(3):
        observer.feed_snapshot(snapshot(ring, tasks=tasks, tasks_alive=1))
        ring.wait(1000 * MS, 0)
    cancelled(ring)
    feed(observer, ring)
    # It may still have got the lock.
    (alive,) = observer.observe().loops[0].tasks
    assert alive.waiting_since == alive.last_step > first + 1000 * MS
    observer.feed_snapshot(snapshot(ring, closed=True, tasks=[], tasks_left=[]))
    observation = observer.observe()
    (found,) = observation.loops[0].tasks
    assert (found.state, found.waiting_since) == ("done", first)
    assert found.ended == found.last_step
    (finding,) = find(observation, Thresholds(lock_wait=2))
    assert finding.kind == "task-waits-long"


def test_a_task_that_got_the_lock_between_two_snapshots_has_waited_since_the_second() -> None:
    ring = Ring()
    waiting_task(ring)
    observer = observer_of(ring)
    tasks = [{"id": 0x9000, "state": "waiting", "waiting_for": "Lock"}]
    observer.feed_snapshot(snapshot(ring, tasks=tasks, tasks_alive=1))
    cancelled(ring)
    feed(observer, ring)
    second = BASE + ring.time
    observer.feed_snapshot(snapshot(ring, tasks=tasks, tasks_alive=1))
    cancelled(ring)
    feed(observer, ring)
    observer.feed_snapshot(snapshot(ring, closed=True, tasks=[], tasks_left=[]))
    assert observer.observe().loops[0].tasks[0].waiting_since == second


def test_a_lost_task_whose_address_another_one_got_has_waited() -> None:
    ring = Ring()
    waiting_task(ring)
    observer = observer_of(ring)
    first = BASE + ring.time
    tasks = [{"id": 0x9000, "name": "lost", "state": "waiting", "orphaned": True}]
    observer.feed_snapshot(snapshot(ring, tasks=tasks, tasks_alive=1))
    cancelled(ring)
    ring.put("TASK_CREATED", 0x300, 0x9000, after=MS)
    feed(observer, ring)
    lost = observer.observe().loops[0].tasks[-1]
    assert (lost.name, lost.state, lost.orphaned, lost.waiting_since) == (
        "lost", "done", True, first,
    )  # fmt: skip


def test_the_tasks_that_were_left_when_the_loop_was_closed_are_alive() -> None:
    ring = Ring()
    waiting_task(ring)
    ring.put("TASK_CREATED", 0x300, 0x9100)
    observer = observer_of(ring)
    # Without a snapshot, it is not known which tasks have ended.
    (loop,) = observer.observe().loops
    assert (loop.tasks_created, loop.tasks_alive) == (2, None)
    assert "2 created\n" in render(observer.observe(), [])
    observer.feed_snapshot(snapshot(ring, closed=True, tasks=[], tasks_left=[0x9100]))
    (loop,) = observer.observe().loops
    assert loop.tasks_alive == 1
    assert "2 created, 1 alive at the end\n" in render(observer.observe(), [])
    assert {task.id: task.state == "done" for task in loop.tasks} == {0x9000: True, 0x9100: False}


def test_a_closed_loop_has_no_tasks(tmp_path: Path) -> None:
    async def main() -> None:
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

    with noria.record(tmp_path / "run.noria", socket=False):
        noria.run(main())
    (loop,) = observe_recording(tmp_path / "run.noria").loops
    assert loop.tasks_alive == 0
    assert {task.state for task in loop.tasks} == {"done"}


def test_records_that_are_missing_come_before_those_that_follow_them(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    recorder = Recorder(64)
    fd = create_file(path)
    write_magic(fd)
    watched = SimpleNamespace(
        id=0, recorder=recorder, released=False, description=lambda header: {"header": header}
    )
    writer = dump._LoopWriter(fd, watched, whole=True)
    for number in range(100):
        recorder.record(58, 0, number)
    writer.write()
    writer.reader.close()
    recorder.close()
    os.close(fd)
    with Recording.open(path) as written:
        kinds = [
            "records" if chunk.kind == RECORDS else written.decode(chunk)["what"]
            for chunk in written.chunks()
        ]
        assert kinds == ["loop", "dropped", "records"]


@pytest.mark.parametrize("running", [True, False])
def test_a_loop_that_waits_is_observed_until_the_last_snapshot(
    tmp_path: Path, running: bool
) -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 4242)
    ring.turn()
    ring.wait(5 * MS, 1)
    ring.call(ring.intern("code", "f"))
    ring.put("WAIT", -1)
    if not running:
        ring.put("RUN_END", after=MS)
    latest = {"what": "snapshot", "time": BASE + ring.time + 900 * MS, "loops": []}
    write_recording(tmp_path / "x.noria", {0: ring}, [latest])
    (loop,) = observe_recording(tmp_path / "x.noria").loops
    assert loop.running == running
    assert loop.end == (latest["time"] if running else BASE + ring.time)
    assert loop.waiting >= 5 * MS + 900 * MS * running


@pytest.mark.parametrize(("stack", "slow"), [(True, 260 * MS), (False, 1000)])
def test_the_time_in_which_a_process_was_stopped_is_not_that_of_a_call(
    tmp_path: Path, stack: bool, slow: int
) -> None:
    ring = Ring()
    more: list[dict[str, Any]] = []
    blocked_loop(ring, more)
    (block,) = more
    if not stack:
        block["stack"] = []  # it was long only because the process was stopped
    write_recording(
        tmp_path / "x.noria",
        {0: ring},
        [{**block, "ended": True, "duration": 260 * MS, "excused": 140 * MS}],
    )
    (loop,) = observe_recording(tmp_path / "x.noria").loops
    assert loop.slow[0].duration == slow
    assert len(loop.blocks) == stack
