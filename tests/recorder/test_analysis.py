"""The analysis of records: figures of records made by hand, whose answers are known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from tests.support.recordings import BASE, HEADER, MS, Ring

from noria._core.recorder.analysis import Analysis
from noria._core.recorder.timeline import Timeline
from noria.errors import RecordingError


def analysed(ring: Ring, **options: Any) -> Analysis:
    analysis = Analysis(HEADER, **options)
    analysis.feed(bytes(ring.records))
    return analysis


def figures(ring: Ring, **options: Any) -> dict[str, Any]:
    return analysed(ring, **options).figures()


def started(events: int = 0) -> Ring:
    """A loop that runs, has slept for 1 ms and then has events."""
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    ring.wait(MS, events)
    ring.turn()
    return ring


def test_time_is_busy_waiting_or_outside() -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    ring.wait(5 * MS, 1, after=1 * MS)
    ring.turn()
    ring.call(0x100)
    ring.wait(2 * MS, 0, after=3 * MS)
    ring.turn()
    ring.put("RUN_END", after=1 * MS)
    ring.put("RUN_BEGIN", 7, 0, after=100 * MS)
    ring.wait(4 * MS, 0)
    found = figures(ring)
    assert found["busy"] == 5 * MS
    assert found["waiting"] == 11 * MS
    assert (found["waits"], found["turns"], found["events"]) == (3, 2, 1)
    assert found["running"]
    assert found["begin"] == BASE
    assert found["end"] == BASE + 116 * MS


def test_the_handler_that_has_not_ended_is_the_running_one() -> None:
    ring = started(2)
    ring.call(0x100)
    ring.call(0x200, after=1 * MS)
    analysis = analysed(ring)
    analysis.advance(BASE + 900 * MS)
    kind, code, start, *_ = analysis.figures()["running_call"]
    assert (kind, code, start) == ("callback", 0x200, BASE + 2 * MS)
    ring.wait(1 * MS, 0, after=5 * MS)
    assert figures(ring)["running_call"] is None


def test_the_time_before_the_first_run_is_not_busy() -> None:
    ring = Ring()
    ring.put("CLOCK", BASE, 0)
    ring.put("COUNTER", 0, 0)
    ring.put("RUN_BEGIN", 7, after=5 * MS)
    ring.wait(4 * MS, 0, after=2 * MS)
    found = figures(ring)
    assert (found["busy"], found["waiting"]) == (2 * MS, 4 * MS)
    loop = Timeline(HEADER, [bytes(ring.records)]).lanes(buckets=11)["loop"]
    assert (sum(loop["busy"]), sum(loop["waiting"])) == (2 * MS, 4 * MS)


def test_time_goes_on_while_nothing_is_recorded() -> None:
    analysis = analysed(started())
    analysis.advance(BASE + 11 * MS)
    assert analysis.figures()["busy"] == 10 * MS
    ring = Ring()
    ring.put("WAIT", -1)
    analysis = analysed(ring)
    analysis.advance(BASE + 10 * MS)
    analysis.advance(BASE + 3 * MS)  # earlier: nothing happens
    found = analysis.figures()
    assert (found["busy"], found["waiting"], found["end"]) == (0, 10 * MS, BASE + 10 * MS)


def test_a_handler_lasts_until_the_next_one_or_the_end_of_the_turn() -> None:
    ring = started(4)
    ring.call(0x100)
    ring.step(0x9000, 0x200, after=1000)
    ring.io(5, 0x300, after=2000)
    ring.call(0x100, after=3000)
    ring.put("RECEIVE", 5, 10, after=500)
    ring.put("WAIT", -1, after=3500)
    found = figures(ring)
    assert sorted(found["codes"]) == [
        ("callback", 0x100, 2, 5000, 4000),
        ("protocol", 0x300, 1, 3000, 3000),
        ("task", 0x200, 1, 2000, 2000),
    ]
    assert found["handler"][:3] == (4, 10_000, 4000)
    assert found["turn"][:3] == (1, 10_000, 10_000)
    assert (found["callbacks"], found["steps"], found["io"]) == (2, 1, 1)
    assert found["slow"][0] == ("callback", 0x100, BASE + MS + 6000, 4000, 0, -1, 0)


def test_handlers_without_a_time_of_their_own_share_it() -> None:
    ring = started(4)
    ring.call(0x100)
    ring.call(0x200)
    ring.call(0x300)
    ring.call(0x400, after=9000)
    ring.put("WAIT", -1, after=5000)
    found = figures(ring)
    assert sorted(found["codes"]) == [
        ("callback", 0x100, 1, 3000, 3000),
        ("callback", 0x200, 1, 3000, 3000),
        ("callback", 0x300, 1, 3000, 3000),
        ("callback", 0x400, 1, 5000, 5000),
    ]


def test_of_handlers_that_share_a_long_time_the_last_one_has_taken_it() -> None:
    ring = started(3)
    ring.call(0x100)
    ring.call(0x200)
    ring.call(0x300)
    ring.put("WAIT", -1, after=50 * MS)
    assert sorted(figures(ring)["codes"]) == [
        ("callback", 0x100, 1, 1000, 1000),
        ("callback", 0x200, 1, 1000, 1000),
        ("callback", 0x300, 1, 50 * MS - 2000, 50 * MS - 2000),
    ]


def test_a_handler_s_record_may_begin_its_turn() -> None:
    ring = started(1)
    for after in (0, 400, 0, 0, 600):
        ring.queue()
        ring.handler("CALL", 0x100, after=after, first=True)
    ring.put("WAIT", -1, after=300)
    found = figures(ring)
    assert (found["turns"], found["callbacks"]) == (6, 5)
    # The first one has no handler; two of the others share 600 ns with the one before.
    assert found["turn"][:3] == (6, 1300, 400)
    assert found["handler"][:3] == (5, 1300, 400)
    assert sorted(found["codes"]) == [("callback", 0x100, 5, 1300, 400)]


def test_events_wait_from_the_wait_or_the_handler_that_queued_them() -> None:
    ring = started(2)
    ring.call(0x100)  # no delay
    ring.queue(2)
    ring.call(0x100, after=1000)  # 1000
    ring.poll(1, after=500)
    ring.turn()
    ring.call(0x200, after=200)  # queued at 1000: 700
    ring.call(0x200, after=100)  # 800
    ring.io(5, after=100)  # queued by the poll, 400 ago
    ring.wait(MS, 0)
    count, total, longest, _ = figures(ring)["queue_delay"]
    assert (count, total, longest) == (5, 0 + 1000 + 700 + 800 + 400, 1000)


def test_more_events_than_a_tail_can_tell_apart() -> None:
    ring = started(1)
    ring.call(0x100)
    ring.queue(70_000)
    ring.poll(0, after=1000)
    ring.turn()
    for _ in range(70_000):
        ring.call(0x200)
    ring.queue(1)
    ring.poll(0, after=5000)
    ring.turn()
    ring.call(0x300, after=2000)
    ring.wait(MS, 0)
    found = figures(ring)
    assert found["queue_delay"][0] == 70_002
    assert found["queue_delay"][1:3] == (2000, 2000)


def test_timers_are_late_from_their_due_time_until_they_run() -> None:
    ring = started()
    ring.timer(ring.time - 300)
    ring.timer(ring.time - 100)
    ring.turn(timers=5, after=1000)
    ring.handler("TIMER_CALL", 0x100)
    ring.handler("TIMER_STEP", 0x200, 0x9000, after=1000)
    ring.wait(MS, 0)
    found = figures(ring)
    assert found["timers_fired"] == 2
    assert found["timers_pending"] == 5
    assert found["lateness"][:3] == (2, 1300 + 2100, 2100)
    assert ("timer", 0x100, 1, 1000, 1000) in found["codes"]


def test_tasks_have_steps_and_wake_themselves() -> None:
    ring = started(1)
    ring.put("TASK_CREATED", 0x200, 0x9000)
    ring.put("TASK_NAMED", 0x555, 0x9000)
    ring.step(0x9000, 0x200)
    ring.queue(1)
    for _ in range(3):
        ring.poll(0, after=1000)
        ring.turn()
        ring.step(0x9000, 0x200, after=500)
        ring.queue(1)
    ring.call(0x100, after=4000)
    ring.queue(1)
    ring.poll(0, after=1000)
    ring.turn()
    ring.step(0x9000, 0x200)  # woken by the callback
    ring.wait(MS, 0, after=1000)
    ((number, code, name, created, replaced, steps, busy, scheduled, longest, _, wakes),) = (
        analysed(ring).tasks()
    )
    assert (number, code, name, created, replaced) == (0x9000, 0x200, 0x555, BASE + MS, 0)
    assert (steps, wakes) == (5, 3)
    assert busy == 1000 * 3 + 4000 + 1000
    assert (scheduled, longest) == (3 * 500, 4000)


def test_the_address_of_a_task_is_used_again() -> None:
    ring = started(2)
    ring.put("TASK_CREATED", 0x200, 0x9000)
    ring.step(0x9000, 0x200)
    ring.put("TASK_CREATED", 0x300, 0x9000, after=1000)
    ring.step(0x9000, 0x300, after=1000)
    ring.wait(MS, 0, after=1000)
    first, second = analysed(ring).tasks()
    assert (first[1], first[4], first[5]) == (0x200, BASE + MS + 1000, 1)
    assert (second[1], second[4], second[5]) == (0x300, 0, 1)


def test_more_tasks_than_are_kept_forget_the_least_recent() -> None:
    ring = started(1)
    for number in range(1000):
        ring.put("TASK_CREATED", 0x200, 0x9000 + 16 * number, after=10)
        ring.step(0x9000 + 16 * number, 0x200, after=10)
        ring.queue(1)
    analysis = analysed(ring, max_tasks=100)
    kept = {task[0] for task in analysis.tasks()}
    assert len(kept) == 100
    assert 0x9000 + 16 * 999 in kept
    assert 0x9000 not in kept
    found = analysis.figures()
    assert found["tasks_created"] == found["steps"] == 1000
    assert [task[0] for task in analysis.tasks(0, [0x9000 + 16 * 999])] == [0x9000 + 16 * 999]


def test_connections_from_their_open_to_their_close() -> None:
    ring = started(2)
    ring.io(3, kind=3)
    ring.put("ACCEPT", 3, 7)
    ring.put("OPEN", 7, 0x300)
    ring.put("CALLER", 7 | 12 << 32, 0x700)
    ring.put("RECEIVE", 7, 100)
    ring.put("RECEIVE", 7 | 11 << 32, 0)
    ring.put("SEND", 7, 60)
    ring.put("SEND", 7, 30, after=10)
    ring.put("SEND", 7 | 11 << 32, 0)
    ring.put("UNSENT", 7, 500)
    ring.put("PAUSE_WRITING", 7, 500)
    ring.put("CALLER", 7 | 77 << 32, 0x800)
    ring.put("UNSENT", 7, 800)
    ring.put("SEND", 7, 300, after=2000)
    ring.put("RESUME_WRITING", 7)
    ring.put("PAUSE_READING", 7, after=1000)
    ring.put("CLOSE", 7, after=5000)
    ring.put("ACCEPT", 3, 7, after=1000)
    ring.put("ACCEPT", 3 | 24 << 32)
    ring.put("RECEIVE", 9, 5)  # opened before the records began
    again, old, first = analysed(ring).connections()[1::-1] + analysed(ring).connections()[2:]
    assert (again["fd"], again["opened"], again["closed"]) == (7, BASE + MS + 9010, 0)
    assert (old["fd"], old["opened"], old["bytes_in"]) == (9, 0, 5)
    assert (first["bytes_in"], first["bytes_out"]) == (100, 390)
    assert (first["receives"], first["sends"], first["blocked_sends"]) == (2, 4, 1)
    assert (first["most_unsent"], first["written_while_paused"]) == (800, 300)
    assert first["longest_writing_pause"] == 2000
    assert first["longest_reading_pause"] == 5000
    assert first["closed"] == BASE + MS + 8010
    assert first["opened_at"] == (0x700, 12)
    assert first["written_at"] == (0x800, 77)
    assert first["paused_at"] is None
    assert first["repeated_sends"] == 3
    assert first["sender"] == ("protocol", 0)
    found = figures(ring)
    assert (found["connections_opened"], found["connections_open"]) == (2, 2)


def test_the_end_of_a_stream_is_no_data() -> None:
    ring = started(1)
    ring.io(7)
    ring.put("RECEIVE", 7, 100)
    ring.put("RECEIVE", 7, 0, after=MS)
    (found,) = analysed(ring).connections()
    assert (found["receives"], found["last_received"]) == (2, BASE + MS)


def test_the_user_of_a_connection_is_the_task_that_its_handler_wakes() -> None:
    ring = started(1)
    ring.put("OPEN", 7, 0x300)
    ring.io(7, 0x300)
    ring.put("RECEIVE", 7, 100)
    ring.queue(1)
    ring.poll(0)
    ring.turn()
    ring.step(0x9000, 0x200)
    assert analysed(ring).connections()[0]["user"] == 0x200


def test_a_long_turn_and_the_delay_it_causes() -> None:
    ring = started(3)
    ring.call(0x100)
    ring.queue(2)
    ring.step(0x9000, 0x200, after=200 * MS)
    ring.call(0x100, after=MS)
    ring.poll(0)
    ring.turn()
    ring.call(0x100)
    ring.call(0x100, after=MS)
    ring.wait(MS, 0)
    found = figures(ring, max_block=50 * MS)
    ((start, end, delay, waited, kind, code, task, handlers),) = found["long_turns"]
    assert (start, end) == (BASE + MS, BASE + 202 * MS)
    assert (kind, code, task, waited, handlers) == ("callback", 0x100, 0, 4, 3)
    # Two of its own events; the two that it queued after 200 ms waited 1 ms of it.
    assert delay == 200 * MS + 201 * MS + 2 * MS
    assert found["queue_delay"][1] == delay + MS
    assert not figures(ring, max_block=300 * MS)["long_turns"]


def test_jobs_files_collections_and_exceptions() -> None:
    ring = started(1)
    ring.put("JOB_QUEUED", 1, 0x400)
    ring.put("JOB_QUEUED", 2, 0x400)
    ring.put("JOB_BEGIN", 1, 0x400, after=1000)
    ring.put("FILE_BEGIN", 1, 2)
    ring.call(0x100)
    ring.put("GC_BEGIN", 2)
    ring.put("GC_END", 10, after=3000)
    ring.put("EXCEPTION", 0x600, 0x100)
    ring.put("EXCEPTION", 0x600, 0x100)
    ring.put("FILE_END", 1, -5)
    ring.put("FILE_BEGIN", 2, 2)
    ring.put("JOB_END", 1)
    found = figures(ring)
    assert found["files"][:3] == (2, 1, 1)
    assert found["files"][3][:3] == (1, 3000, 3000)
    submitted, finished, queued, running, waiting, duration, codes = found["jobs"]
    assert (submitted, finished, queued, running) == (2, 1, 1, 0)
    assert (waiting[1], duration[1]) == (1000, 3000)
    assert codes == [("job", 0x400, 1, 3000, 3000)]
    assert found["gc"][:2] == ([0, 0, 1], 10)
    assert found["gc"][3] == [("callback", 0x100, 1, 3000, 3000)]
    assert found["exceptions"] == [(0x600, 0x100, 2, BASE + MS + 4000)]


def test_samples_cover_the_time() -> None:
    ring = Ring()
    ring.put("RUN_BEGIN", 7)
    for _ in range(25):
        ring.wait(60 * MS, 1, after=40 * MS)
        ring.turn()
        ring.call(0x100)
    ring.wait(0, 0, after=40 * MS)
    analysis = analysed(ring, sample=1000 * MS)
    samples = analysis.samples()
    assert [sample[1] - sample[0] for sample in samples] == [1000 * MS, 1000 * MS, 540 * MS]
    assert [sample[2] for sample in samples] == [400 * MS, 400 * MS, 240 * MS]
    assert sum(sample[4] for sample in samples) == 25
    # Too many of them become half as many, of twice the length.
    merged = analysed(ring, sample=10 * MS, max_samples=8).samples()
    assert len(merged) <= 9
    assert sum(sample[2] for sample in merged) == 1040 * MS
    assert merged[0][0] == BASE
    assert merged[-1][1] == BASE + 2540 * MS
    assert all(one[1] == other[0] for one, other in pairwise(merged))
    latest = analysed(ring, sample=10 * MS, max_samples=8, keep_latest=True).samples()
    assert len(latest) <= 9
    assert latest[-1][1] == BASE + 2540 * MS
    assert latest[0][1] - latest[0][0] == 10 * MS


def test_counters_count_from_their_first_value() -> None:
    ring = Ring()
    ring.put("COUNTER", 0, 1000)
    ring.put("COUNTER", 1, 400)
    ring.put("COUNTER", 99, 1)
    ring.put("COUNTER", 0, 1030, after=MS)
    ring.put("COUNTER", 1, 410)
    analysis = analysed(ring)
    assert analysis.figures()["counters"] == {"waits": 30, "empty_waits": 10}
    assert analysis.samples()[0][6] == 30


def test_ticks_follow_the_clock_records() -> None:
    ring = Ring()
    header = {**HEADER, "ns_per_tick": 0.5}
    ring.put("CLOCK", BASE, 0)
    ring.put("WAIT", -1)
    ring.put("CLOCK", BASE + 49 * MS, 0, after=100 * MS)  # 0.49 ns a tick
    ring.put("WOKE", 0, after=100 * MS)
    analysis = Analysis(header)
    analysis.feed(bytes(ring.records))
    assert analysis.now == pytest.approx(BASE + 98 * MS, abs=1000)


def test_records_may_come_in_any_portions_and_begin_anywhere() -> None:
    ring = started(1)
    for _ in range(50):
        ring.io(5, 0x300, after=1000)
        ring.put("RECEIVE", 5, 10)
        ring.queue(1)
        ring.poll(1, after=1000)
        ring.turn()
        ring.step(0x9000, 0x200, after=100)
    records = bytes(ring.records)
    whole = Analysis(HEADER)
    whole.feed(records)
    portions = Analysis(HEADER)
    for begin in range(0, len(records), 24 * 7):
        portions.feed(memoryview(records)[begin : begin + 24 * 7])
    assert portions.figures() == whole.figures()
    for skipped in range(1, 30):
        part = Analysis(HEADER)
        part.feed(records[24 * skipped :])
        found = part.figures()
        assert found["busy"] + found["waiting"] == found["end"] - found["begin"]
        assert found["queue_delay"][2] <= whole.figures()["queue_delay"][2]


def test_what_is_queued_is_unknown_after_a_gap() -> None:
    ring = started(1)
    ring.call(0x100)
    ring.queue(3)
    analysis = analysed(ring)
    analysis.gap()
    ring.records.clear()
    ring.queued += 12345
    ring.taken += 12345
    ring.time += 900 * MS
    ring.poll(2)
    ring.turn()
    for _ in range(5):
        ring.call(0x100, after=1000)
    analysis.feed(bytes(ring.records))
    count, _, longest, _ = analysis.figures()["queue_delay"]
    assert count == 1 + 2  # the two of the poll, whose time is known
    assert longest == 5000


@pytest.mark.parametrize(
    "change",
    [
        {"ns_per_tick": 0.0},
        {"ns_per_tick": float("nan")},
        {"ns_per_tick": "fast"},
        {"monotonic_base_ns": 1 << 80},
        {"realtime_base_ns": None},
    ],
)
def test_an_impossible_header_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecordingError, match="header"):
        Analysis({**HEADER, **change})


def test_parts_of_records_are_refused() -> None:
    with pytest.raises(ValueError, match="24"):
        Analysis(HEADER).feed(b"x" * 25)
