"""The trace of a recording, against the rules of Chrome's trace format."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from noria.sight.recording import Recording, observe_recording
from noria.sight.report import perfetto
from noria.sight.report.trace_events import BLOCKS, COLLECTIONS, HANDLERS, WORKERS, Rows
from support.recordings import synthetic_recording

# Members that each phase must have, beside "ph", "pid", "tid" and "ts": Trace Event Format. Events
# of these phases may be in any order: only B and E must be sorted within a thread.
MEMBERS = {
    "X": {"name", "cat", "dur"},
    "i": {"name", "cat", "s"},
    "b": {"name", "cat", "id"},
    "e": {"name", "cat", "id"},
    "s": {"name", "cat", "id"},
    "f": {"name", "cat", "id", "bp"},
    "C": {"name", "args"},
    "M": {"name", "args"},
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("trace") / "run.noria"
    synthetic_recording(path)
    target = path.with_suffix(".json")
    with Recording.open(path) as recording:
        perfetto.write_trace(recording, observe_recording(path), target)
    found = json.loads(target.read_text())
    assert found["displayTimeUnit"] == "ns"
    assert all(isinstance(value, str) for value in found["otherData"].values())
    return found["traceEvents"]


def of(trace, phase: str, track: int = -1) -> list[dict[str, Any]]:
    return [each for each in trace if each["ph"] == phase and track in (-1, each["tid"])]


def test_each_event_has_its_members(trace):
    for event in trace:
        phase = event["ph"]
        assert set(event) - {"args"} >= (MEMBERS[phase] - {"args"}) | {"pid", "tid", "ts"}
        assert event["pid"] == 4242
        assert isinstance(event["tid"], int)
        assert isinstance(event["ts"], (int, float))
        assert event["ts"] >= 0
        assert isinstance(event["name"], str)
        assert isinstance(event.get("args", {}), dict)
        if phase == "X":
            assert event["dur"] >= 0
        if "id" in event:
            int(event["id"], 16)  # Perfetto skips others
        if phase == "C":
            assert event["args"]
            assert all(isinstance(each, (int, float)) for each in event["args"].values())


def test_spans_of_a_track_do_not_overlap(trace):
    tracks = defaultdict(list)
    for event in of(trace, "X"):
        tracks[event["tid"]].append((round(event["ts"] * 1000), round(event["dur"] * 1000)))
    assert set(tracks) >= {HANDLERS, BLOCKS, COLLECTIONS, WORKERS}
    for spans in tracks.values():
        spans.sort()
        for (start, duration), (following, _) in itertools.pairwise(spans):
            assert start + duration <= following


def test_each_handler_is_a_span(trace):
    kinds = Counter(event["cat"] for event in of(trace, "X", HANDLERS))
    assert kinds == {"protocol": 11, "task": 58, "callback": 23, "timer": 1, "wait": 18}
    (longest,) = [event for event in of(trace, "X", HANDLERS) if event["name"] == "Report.render"]
    assert longest["dur"] == 400_000
    assert longest["args"] == {"place": "/srv/report.py:40", "task": "renderer"}
    echo = [event for event in of(trace, "X", HANDLERS) if event["name"] == "service.Echo"]
    assert {event["args"]["fd"] for event in echo} == {10}


def test_tracks_have_names(trace):
    names = {
        event["tid"]: event["args"]["name"]
        for event in of(trace, "M")
        if event["name"] == "thread_name"
    }
    assert names[HANDLERS] == "loop 0 (MainThread, epoll)"
    used = {event["tid"] for event in trace if event["ph"] in "Xi"}
    assert used <= set(names)
    (process,) = [event for event in of(trace, "M") if event["name"] == "process_name"]
    assert process["args"]["name"] == "python -m service (4242)"


def test_blocks_have_their_stack_and_collections_a_mark(trace):
    (block,) = of(trace, "X", BLOCKS)
    assert block["name"] == "blocked in Report.render"
    assert block["args"]["frame 0"] == "Report.render (/srv/report.py:47): rows = sorted(rows)"
    (pause,) = of(trace, "X", COLLECTIONS)
    assert pause["dur"] == 8000
    assert {event["cat"] for event in of(trace, "i", HANDLERS)} == {"block", "gc"}


def test_arrows_lead_from_the_queueing_handler_to_the_job(trace):
    (start,), (end,) = (
        [event for event in of(trace, phase) if event["name"] == "compress"] for phase in "sf"
    )
    assert start["id"] == end["id"]
    assert end["bp"] == "e"
    (job,) = of(trace, "X", WORKERS)
    assert job["name"] == "compress"
    assert end["ts"] == job["ts"]
    inside = [
        event
        for event in of(trace, "X", HANDLERS)
        if event["ts"] <= start["ts"] <= event["ts"] + event["dur"]
    ]
    assert "on_failure" in {event["name"] for event in inside}


def arrows(trace) -> Counter[tuple[str, str]]:
    """Return the names of the handlers between which the arrows of "queued" lead."""
    spans = [event for event in of(trace, "X", HANDLERS) if event["cat"] != "wait"]
    ends = {
        phase: {event["id"]: event for event in of(trace, phase) if event["name"] == "queued"}
        for phase in "sf"
    }
    assert ends["s"].keys() == ends["f"].keys()
    names = {event["ts"]: event["name"] for event in spans}
    assert len(names) == len(spans)
    for number, event in ends["f"].items():
        assert event["bp"] == "e"
        assert ends["s"][number]["ts"] <= event["ts"]
    return Counter(
        (names[ends["s"][number]["ts"]], names[ends["f"][number]["ts"]]) for number in ends["f"]
    )


def test_arrows_lead_from_a_handler_to_those_that_it_has_queued(trace):
    assert arrows(trace) == {
        ("main", "spin"): 1,
        ("main", "sleeper"): 1,
        ("main", "worker"): 1,
        ("main", "request"): 2,
        ("spin", "spin"): 51,
        ("_set_result_unless_cancelled", "sleeper"): 1,
    }


def test_asynchronous_events_begin_and_end(trace):
    begins = {(event["cat"], event["id"]): event["ts"] for event in of(trace, "b")}
    ends = {(event["cat"], event["id"]): event["ts"] for event in of(trace, "e")}
    assert len(begins) == len(of(trace, "b"))
    assert set(begins) == set(ends)
    assert all(begins[key] <= ends[key] for key in begins)
    names = {event["name"] for event in of(trace, "b")}
    assert "fd 11: reading paused" in names
    assert "file operation failed" in names
    assert "fd 10 service.Echo 127.0.0.1:5000" in names


def test_counters_have_the_utilization(trace):
    values = [
        event["args"]["value"]
        for event in of(trace, "C")
        if event["name"] == "loop 0 utilisation (%)"
    ]
    assert min(values) == 0
    assert max(values) == 100
    assert 65 < sum(values) / len(values) < 75


def test_only_the_longest_handlers_are_written_if_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perfetto, "MAX_HANDLERS", 2)
    monkeypatch.setattr(perfetto, "COUNTER_VALUES", 1)
    path = tmp_path / "run.noria"
    synthetic_recording(path)
    with Recording.open(path) as recording:
        text = "".join(perfetto.trace(recording, observe_recording(path)))
    found = of(json.loads(text)["traceEvents"], "X", HANDLERS)
    assert {each["name"] for each in found if each["cat"] != "wait"} == {
        "Report.render",
        "on_failure",
    }


def test_only_the_arrows_with_the_longest_delays_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perfetto, "MAX_FLOWS", 2)
    path = tmp_path / "run.noria"
    synthetic_recording(path, "tasks")
    with Recording.open(path) as recording:
        text = "".join(perfetto.trace(recording, observe_recording(path)))
    # The tasks that main created ran one after the other.
    assert arrows(json.loads(text)["traceEvents"]) == {("main", "request"): 2}


def test_rows_of_overlapping_spans():
    rows = Rows()
    assert [rows.place(*span) for span in ((0, 10), (2, 4), (3, 9), (4, 5), (10, 11))] == [
        0, 1, 2, 1, 0
    ]  # fmt: skip
    assert rows.count == 3
