"""What `noria top` shows, without a terminal: units, rates, tables, trees, text, JSON."""

from __future__ import annotations

import json
import os
import queue
import threading

import pytest

from noria.sight.findings.places import innermost
from noria.sight.observation import Distribution, LoopFigures, Place, SlowCall, TaskFigures
from noria.sight.top import processes, units
from noria.sight.top.connections import connection_items, connection_table
from noria.sight.top.history import LoopHistory
from noria.sight.top.json_lines import view_json
from noria.sight.top.lines import cropped, plain, source_lines
from noria.sight.top.panels import loop_panel
from noria.sight.top.poller import Poller
from noria.sight.top.rates import LoopRates, difference, loop_rates, rates
from noria.sight.top.session import Session
from noria.sight.top.sparkline import bar, histogram, sparkline
from noria.sight.top.tables import fit
from noria.sight.top.tasks import task_items, task_table
from noria.sight.top.text import view_text
from noria.sight.top.tree import task_tree
from support.observations import (
    MS,
    SECOND,
    ScriptedSource,
    distribution,
    place,
    sample_observation,
)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0"),
        (850, "850ns"),
        (999.6, "1.00µs"),
        (12_300, "12.3µs"),
        (412 * MS, "412ms"),
        (1_800 * MS, "1.80s"),
        (59.99 * SECOND, "1m00s"),
        (200 * SECOND, "3m20s"),
        (7_500 * SECOND, "2h05m"),
        (187_200 * SECOND, "2d04h"),
    ],
)
def test_durations(ns, text):
    assert units.duration(ns) == text


def test_sizes_numbers_and_shares():
    assert [units.size(n) for n in (0, 999, 1000, 65_536, 1.5 * 2**20, 2**50)] == [
        "0B", "999B", "0.98KiB", "64.0KiB", "1.50MiB", "1024TiB",
    ]  # fmt: skip
    assert [units.known(n) for n in (None, 7)] == ["?", "7"]
    assert [units.number(n) for n in (0, 0.254, 12.34, 12_345, 99_999, 123_456, 1.2e9)] == [
        "0", "0.25", "12.3", "12,345", "99,999", "123k", "1.20G",
    ]  # fmt: skip
    assert [units.share(n) for n in (0, 0.0004, 0.4314, 0.9996)] == ["", "<0.1%", "43.1%", "100%"]


def test_texts_of_the_program_cannot_control_the_terminal():
    assert units.clean("a\x1b]0;title\x07\u202eb\n") == "a\\x1b]0;title\\x07\\u202eb\\x0a"
    task = TaskFigures(1, "\x1b[2J", Place("f\x1b", "/a\x1b/b\n.py", 1), "waiting")
    (item,) = task_items(LoopFigures(0, tasks=[task]), LoopRates(1.0), 1, ended=False)
    assert not any(
        character in text
        for column in task_table().columns
        for text in [column.cell(item)[0]]
        for character in "\x1b\n"
    )


def test_a_difference_of_distributions_has_what_was_counted_in_between():
    before = distribution((10, 5), (1_000, 2))
    after = distribution((10, 5), (100, 3), (1_000, 3))
    found = difference(after, before)
    assert (found.count, found.total) == (4, 1_300)
    assert [count for _, count in found.buckets] == [3, 1]
    assert found.longest == 1_000  # of the bucket's values at most the longest of all
    assert difference(after, None) == after
    assert difference(before, after) == before  # the process has restarted


def test_rates_come_from_two_observations():
    found = rates(sample_observation(1), sample_observation(0))[0]
    assert found.seconds == pytest.approx(1.0)
    assert found.utilization == pytest.approx(0.43)
    assert (found.events, found.steps, found.bytes_out) == (9_300, 4_200, 1_450_000)
    assert found.calls_per_event == pytest.approx((2_310 + 4_500 + 4_000 + 1) / 9_300)
    assert found.empty_poll_share == pytest.approx(25 / 310)
    assert found.turn.percentile(50) == distribution((120_000, 1)).buckets[0][0]
    by_function = {item.code.place.function: item for item in found.codes}
    assert by_function["Room.broadcast"].busy == pytest.approx(0.31)
    assert by_function["Room.broadcast"].calls == pytest.approx(420)
    broadcast = next(task for task in sample_observation(1).loops[0].tasks if task.id == 2)
    assert found.tasks[broadcast.id, broadcast.created].steps == pytest.approx(420)
    assert all(rate.bytes_in or rate.bytes_out for rate in found.connections.values())


def test_without_an_earlier_observation_rates_are_of_all_that_was_observed():
    loop = sample_observation(0).loops[0]
    found = loop_rates(loop, None)
    assert found.seconds == pytest.approx(40)
    assert found.events == pytest.approx(320_000 / 40)


def test_a_reused_descriptor_is_another_connection():
    before, after = sample_observation(0), sample_observation(1)
    connection = after.loops[0].connections[0]
    connection.opened += 1
    connection.bytes_in, connection.bytes_out = 10, 0
    found = rates(after, before)[0].connections
    assert found[connection.fd, connection.opened].bytes_in == pytest.approx(10)


def test_the_history_begins_with_the_samples_and_grows():
    session = Session(ScriptedSource())
    session.step()
    assert len(session.history(0).points) == 40
    assert session.history(0).series("events", 1) == [4_000 + 300 * ((39 * 7) % 23)]
    session.step()
    assert session.history(0).series("events", 2)[-1] == 9_300
    history = session.history(0)
    task = session.view.observation.loops[0].tasks[1]
    assert history.row(history.tasks, (task.id, task.created))[1] == [420]
    session.step()
    assert history.row(history.tasks, (task.id, task.created))[1] == [420, 420]


def test_the_history_forgets_what_is_gone():
    history = LoopHistory()
    loop = sample_observation(1).loops[0]
    found = rates(sample_observation(1), sample_observation(0))[0]
    history.append(loop, found)
    assert (2, loop.tasks[1].created) in history.tasks
    loop.tasks.clear()
    history.append(loop, LoopRates(1.0))
    assert history.tasks == {}


def test_sparklines():
    assert sparkline([0, 1, 4, 8], 6) == ["   ▁▄█"]
    assert sparkline([8, 16], 2, height=2) == [" █", "██"]
    assert sparkline([1, 2, 3], 2, top=3) == ["▆█"]
    assert sparkline([0.0001], 1, top=1.0) == ["▁"]  # more than nothing is not blank
    assert sparkline([], 3) == ["   "]
    assert sparkline([1, 2], 2, ascii=True) == ["=#"]
    assert bar(0.5, 4) == "██░░"
    assert bar(0.01, 4) == "█░░░"


def test_a_histogram_counts_everything_once():
    durations = distribution((40_000, 7), (1_900_000, 5), (212 * MS, 1))
    counts, low, high = histogram(durations, 60)
    assert (low, high) == (10_000, SECOND)
    assert sum(counts) == pytest.approx(13)
    assert histogram(Distribution(), 60) == ([], 0, 0)
    one = distribution((1_000, 3))
    assert sum(histogram(one, 10)[0]) == pytest.approx(3)


def test_columns_are_dropped_by_priority_and_fill_the_width():
    columns = connection_table().columns
    for width in range(10, 260):
        fitted = fit(columns, width)
        used = sum(space for _, space in fitted) + len(fitted) - 1
        assert used == width
        assert fitted[0][0].key == "peer"
        kept = {column.key for column, _ in fitted}
        assert all(
            column.priority <= min((c.priority for c in columns if c.key not in kept), default=99)
            for column, _ in fitted[1:]
        )
    assert len(fit(columns, 259)) == len(columns)
    assert {"unread", "for", "unsent"} <= {column.key for column, _ in fit(columns, 60)}


def tree_of(text_filter: str = "", sort: str = "busy%") -> list[str]:
    observation = sample_observation(1)
    loop_rates_now = rates(observation, sample_observation(0))[0]
    table = task_table()
    table.filter = text_filter
    table.sort = sort
    items = task_items(observation.loops[0], loop_rates_now, observation.now, ended=False)
    rows = task_tree(items, table)
    return [f"{row.branch}{row.item.label}{' (dim)' * row.dimmed}" for row in rows]


def test_tasks_are_a_tree_and_the_busiest_is_first():
    assert tree_of()[:5] == [
        "main",
        "├─ broadcast",
        "├─ Task-9 store_messages",
        "│  └─ save-snapshot",
        "└─ heartbeat",
    ]
    assert "Task-3 warm_up" not in tree_of()  # it is done


def test_the_filter_keeps_the_tasks_that_lead_to_a_match():
    assert tree_of("snapshot") == [
        "main (dim)",
        "└─ Task-9 store_messages (dim)",
        "   └─ save-snapshot",
    ]
    assert tree_of("orphan") == []
    assert tree_of("SERVER.PY notify") == ["lost"]


def test_tasks_that_await_each_other_are_shown_once():
    tasks = [
        TaskFigures(1, "a", state="waiting", awaited_by=[2]),
        TaskFigures(2, "b", state="waiting", awaited_by=[1]),
        TaskFigures(3, "c", state="waiting", awaited_by=[1, 2, 77]),
    ]
    loop = LoopFigures(0, tasks=tasks)
    rows = task_tree(task_items(loop, LoopRates(1.0), 1, ended=False), task_table())
    assert sorted(row.item.task.name for row in rows) == ["a", "b", "c"]


def test_a_deep_chain_of_tasks():
    tasks = [
        TaskFigures(n, f"t{n}", state="waiting", awaited_by=[n - 1] if n > 1 else [])
        for n in range(1, 1_500)
    ]
    items = task_items(LoopFigures(0, tasks=tasks), LoopRates(1.0), 1, ended=False)
    assert len(task_tree(items, task_table())) == 1_499


def test_connections_are_sorted_by_what_waits_in_the_kernel():
    observation = sample_observation(1)
    found = rates(observation, sample_observation(0))[0]
    table = connection_table()
    items = connection_items(observation.loops[0], found, observation.now, ended=False)
    rows = table.rows(items, lambda item: item.key)
    assert [row.item.connection.fd for row in rows[:2]] == [15, 18]
    cells = {column.key: column.cell(rows[0].item) for column in table.columns}
    assert cells["unread"] == ("128KiB", "bad")
    assert cells["for"] == ("12.0s", "bad")
    assert cells["paused"] == ("read 12.0s", "warn")
    table.filter = "unsent"
    assert [row.item.connection.fd for row in table.rows(items, lambda item: item.key)] == [20]
    with_closed = connection_items(observation.loops[0], found, observation.now, ended=True)
    assert len(with_closed) == len(items) + 1


def test_source_lines_come_from_the_file_only_if_the_line_is_still_there(tmp_path):
    file = tmp_path / "program.py"
    file.write_text("def f():\n    before()\n    await x\n    after()\n")
    there = Place("f", str(file), 3, "await x")
    lines = [plain(line).split() for line in source_lines(there, ascii=False, context=1)]
    assert lines == [["2", "before()"], ["▸", "3", "await", "x"], ["4", "after()"]]
    changed = Place("f", str(file), 3, "await y")
    lines = [plain(line).split() for line in source_lines(changed, ascii=True, context=1)]
    assert lines == [[">", "3", "await", "y"]]
    assert source_lines(Place("f", "/nowhere.py", 3), ascii=False) == []


def test_the_innermost_frame_of_the_program():
    stack = [
        place("main", 1),
        place("handle", 2),
        Place("StreamReader.read", "/usr/lib/python3.13/asyncio/streams.py", 3),
        Place("run", "/venv/lib/python3.13/site-packages/aiohttp/web.py", 4),
    ]
    assert innermost(stack) == stack[1]
    assert innermost(stack[2:]) == stack[3]
    assert innermost([]) is None


def test_a_cropped_line_has_an_ellipsis():
    line = [("abc", "dim"), ("def", "")]
    assert plain(cropped(line, 6)) == "abcdef"
    assert plain(cropped(line, 5)) == "abcd…"
    assert plain(cropped(line, 2)) == "a…"


def test_the_handler_that_blocks_the_loop_now_is_named():
    observation = sample_observation(1)
    loop = observation.loops[0]
    by = place("parse", 77)
    loop.running_call = SlowCall("task", by, observation.now - 3 * SECOND, 3 * SECOND, task=2)
    lines = loop_panel(observation, loop, loop_rates(loop, None), LoopHistory(), 80, 24)
    assert "NOW, for 3.00s, by a task: server.py:77 parse" in plain(lines[-1])
    loop.running_call.duration = MS
    lines = loop_panel(observation, loop, loop_rates(loop, None), LoopHistory(), 80, 24)
    assert "once, longest 212ms" in plain(lines[-1])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_text_fits_and_has_all_parts(width):
    session = Session(ScriptedSource())
    session.step()
    text = view_text(session, session.step(), width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("process 4711", "Loop 0, epoll", "Loop 1, epoll", "43.0%", "192.0.2.5:50185"):
        assert part in text
    assert "├─ broadcast" in text
    assert "loop-blocked" in text


def test_the_text_without_unicode():
    session = Session(ScriptedSource())
    text = view_text(session, session.step(), 80, ascii=True)
    left = {character for character in text if ord(character) > 127}
    assert left <= set("…µ")  # the command replaces these


def test_json_has_rates_and_findings():
    session = Session(ScriptedSource())
    session.step()
    line = view_json(session.step())
    assert "\n" not in line
    found = json.loads(line)
    assert (found["pid"], found["ended"]) == (4711, False)
    loop = found["loops"][0]
    assert loop["rates"]["utilization"] == 0.43
    assert loop["rates"]["turn"]["p99"] > loop["rates"]["turn"]["p50"] > 0
    assert loop["tasks"][1]["name"] == "broadcast"
    assert {"loop-blocked", "executor-full"} <= {each["kind"] for each in found["findings"]}


def test_a_process_that_fails_or_ends_keeps_its_last_figures():
    source = ScriptedSource()
    session = Session(source)
    first = session.step()
    source.error = ConnectionResetError(104, "reset")
    failed = session.step()
    assert (failed.error, failed.ended) == ("connection reset by peer", False)
    assert failed.observation is first.observation
    source.has_ended = True
    assert session.step().ended
    source.error = None
    assert session.step().observation is first.observation  # it is not observed again


def test_a_silent_process_is_shown_until_it_answers():
    times = [0.0]
    source = ScriptedSource()
    session = Session(source, clock=lambda: times[0])
    session.step()
    times[0] = 7.0
    assert session.seconds_since_answer == 7.0
    session.step()
    assert session.seconds_since_answer == 0.0


def test_the_poller_works_in_its_thread_and_closes_the_source():
    source, seen, done = ScriptedSource(), queue.SimpleQueue(), threading.Event()
    poller = Poller(Session(source, interval=0.001), seen.put)
    poller.start()
    poller.call(done.set)
    assert done.wait(20)
    assert [seen.get(timeout=20).observation.pid for _ in range(3)] == [4711] * 3
    poller.close()
    assert source.closed


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A directory for sockets of this test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = tmp_path / "noria"
    directory.mkdir(mode=0o700)
    return directory


def test_processes_are_found_by_their_sockets(runtime):
    (runtime / f"{os.getpid()}.sock").touch()
    (runtime / "999999999.sock").touch()  # it has ended
    (runtime / "other.sock").touch()
    (found,) = [each for each in processes.processes() if each.socket.startswith(str(runtime))]
    assert found.pid == os.getpid()
    assert found.age >= 0
    assert found.memory > 0
    assert "py" in found.command
    assert processes.socket_of(str(os.getpid())) == found.socket


def test_why_a_process_cannot_be_observed(runtime, monkeypatch):
    with pytest.raises(processes.CannotObserve, match="there is no process 999999999"):
        processes.socket_of("999999999")
    with pytest.raises(processes.CannotObserve, match=r"nothing\.sock: no such socket"):
        processes.socket_of("/nothing.sock")
    with pytest.raises(processes.CannotObserve, match="is not watched") as caught:
        processes.socket_of(str(os.getpid()))
    assert "noria run" in caught.value.hint
    assert "noria.watch()" in caught.value.hint
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    with pytest.raises(processes.CannotObserve, match=f"belongs to .*{os.geteuid()}|root|user"):
        processes.socket_of(str(os.getpid()))
