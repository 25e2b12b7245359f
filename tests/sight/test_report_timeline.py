"""The numbers of a report's timeline, as its page gets them."""

from __future__ import annotations

from pathlib import Path

from noria.sight.recording import Recording, observe_recording
from noria.sight.report.data import page_data
from noria.sight.report.page import timelines_of
from support.recordings import MS, Ring, snapshot, write_recording


def test_tasks_that_had_one_address_end_each_at_their_own_time(tmp_path: Path) -> None:
    """The first one was shown as waiting until the last one had ended."""
    path = tmp_path / "run.noria"
    ring = Ring()
    ring.put("RUN_BEGIN", 4242)
    request = ring.intern("code", "request", "/srv/request.py", 4)
    for _ in range(3):
        ring.put("TASK_CREATED", request, 0x5000)
        ring.wait(20 * MS, 1)
        ring.turn()
        ring.step(0x5000, request)
        ring.poll(0, after=5 * MS)
        ring.wait(75 * MS, 0)
    write_recording(path, {0: ring}, [snapshot(ring, tasks=[])])
    with Recording.open(path) as recording:
        observation = observe_recording(path)
        data = page_data(observation, [], timelines_of(recording, {0}), recording.names())
    lanes = data["loops"][0]["timeline"]["tasks"]
    assert [lane["label"] for lane in lanes] == ["request (request.py:4)"] * 3
    for number, lane in enumerate(sorted(lanes, key=lambda lane: lane["begin"])):
        ((start, duration, _),) = lane["spans"]
        assert start == 100_000 * number + 20_000
        assert lane["begin"] == 100_000 * number
        assert start <= lane["end"] <= start + duration + 5_000
