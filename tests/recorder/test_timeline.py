"""The timeline of records made by hand."""

from __future__ import annotations

import pytest
from tests.support.recordings import BASE, HEADER, MS, Ring

from noria._core.recorder.timeline import Timeline


def timeline() -> Timeline:
    """A second: 10 turns of 30 ms, each with a task's step of 10 ms and I/O of 20 ms."""
    ring = Ring()
    ring.put("RUN_BEGIN", 1)
    ring.put("OPEN", 7, 0x300)
    ring.put("OPEN", 8, 0x300)
    ring.put("PAUSE_READING", 8)
    ring.put("TASK_CREATED", 0x200, 0x9000)
    for number in range(10):
        ring.wait(70 * MS, 2)
        ring.turn()
        ring.step(0x9000, 0x200)
        ring.io(7, 0x300, after=10 * MS)
        ring.put("RECEIVE", 7, 100)
        ring.put("SEND", 7, 50)
        if number == 4:
            ring.put("GC_BEGIN", 1)
            ring.put("GC_END", 3, after=5 * MS)
            ring.time -= 5 * MS
        ring.time += 20 * MS
    ring.put("RESUME_READING", 8)
    ring.put("CLOSE", 8)
    ring.put("MARK", 0x777)
    ring.put("RUN_END")
    half = len(ring.records) // 48 * 24
    return Timeline(HEADER, [bytes(ring.records[:half]), memoryview(ring.records)[half:]])


def test_figures_of_buckets() -> None:
    line = timeline()
    assert (line.begin, line.end) == (BASE, BASE + 1000 * MS)
    found = line.lanes(BASE, BASE + 1000 * MS, 10)
    loop = found["loop"]
    assert found["width"] == 100 * MS
    assert loop["busy"] == [30 * MS] * 10
    assert loop["waiting"] == [70 * MS] * 10
    assert loop["turns"] == [1] * 10
    assert loop["events"] == [2] * 10
    assert loop["steps"] == [1] * 10
    assert loop["longest"] == [20 * MS] * 10
    assert loop["longest_turn"] == [30 * MS] * 10
    assert loop["bytes_in"] == [100] * 10
    assert loop["gc"] == [0] * 4 + [5 * MS] + [0] * 5
    assert found["gc"] == [(BASE + 480 * MS, 5 * MS, 1)]
    assert found["wait_count"] == 10


def test_lanes_of_tasks_and_connections() -> None:
    found = timeline().lanes(BASE, BASE + 1000 * MS, 10, spans=4)
    (task,) = found["tasks"]
    assert (task["id"], task["code"], task["begin"]) == (0x9000, 0x200, BASE)
    assert task["busy"] == [10 * MS] * 10
    assert task["span_count"] == 10
    assert task["spans"][1] == (BASE + 170 * MS, 10 * MS, "task")
    assert len(task["spans"]) == 4
    active, paused = found["connections"]
    assert (active["id"], active["code"], active["end"]) == (7, 0x300, 0)
    assert active["bytes_out"] == [50] * 10
    assert active["busy"] == [20 * MS] * 10
    assert (paused["id"], paused["end"]) == (8, BASE + 1000 * MS)
    assert paused["spans"] == [(BASE, 1000 * MS, "reading paused")]


def test_turns_of_one_handler_that_share_their_time() -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 1)
    for _ in range(2):
        ring.queue()
        ring.handler("CALL", 0x100, first=True)
    ring.put("WAIT", -1, after=20 * MS)
    found = Timeline(HEADER, [bytes(ring.records)]).lanes(buckets=1)
    loop = found["loop"]
    assert (loop["turns"], loop["events"], loop["busy"]) == ([2], [2], [20 * MS])
    # A long time is the last one's.
    assert loop["longest"] == loop["longest_turn"] == [20 * MS - 1000]


def test_a_part_of_the_time() -> None:
    found = timeline().lanes(BASE + 150 * MS, BASE + 195 * MS, 9, longest=1)
    assert found["loop"]["waiting"] == [5 * MS] * 4 + [0] * 5
    assert found["loop"]["busy"] == [0] * 4 + [5 * MS] * 5
    assert found["handlers"] == [
        (BASE + 170 * MS, 10 * MS, "task", 0x200, 0x9000, -1, 3),
        (BASE + 180 * MS, 20 * MS, "protocol", 0x300, 0, 7, 4),
    ]
    assert found["tasks"][0]["busy"] == [0] * 4 + [5 * MS] * 2 + [0] * 3
    assert found["marks"] == []


def test_without_records() -> None:
    line = Timeline(HEADER, [])
    assert (line.begin, line.end) == (0, 0)
    assert line.lanes(buckets=3)["loop"]["busy"] == [0, 0, 0]


@pytest.mark.parametrize(
    "limits", [{"buckets": 0}, {"tasks": -1}, {"end": 1}, {"longest": 1 << 30}]
)
def test_impossible_limits(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"no range|impossible"):
        timeline().lanes(**limits)
