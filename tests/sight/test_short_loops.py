"""Programs with many short loops, such as test suites: none is lost silently."""

from __future__ import annotations

import asyncio
import textwrap
import threading
from pathlib import Path

import pytest

import noria
from noria.sight import agent as agent_module
from noria.sight.findings import find
from noria.sight.recording import observe_recording
from noria.sight.report.data import MAX_LOOPS, page_data
from noria.sight.report.text import render
from support.running import finish, start_python

pytestmark = pytest.mark.usefixtures("runtime_directory")


def test_each_loop_is_recorded_and_searched_for_faults(tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, time

            async def bad():
                asyncio.get_running_loop().call_soon(lambda: 1 // 0)
                await asyncio.sleep(0)
                time.sleep(0.15)

            for number in range(100):
                asyncio.run(bad() if number == 20 else asyncio.sleep(0))
            """
        )
    )
    path = tmp_path / "many.noria"
    program = start_python("-m", "noria", "run", "--record", str(path), str(script))
    status, _, errors = finish(program, 40)
    assert status == 0
    assert errors.count("[exception-in-callback]") == 1
    observation = observe_recording(path)
    assert [loop.id for loop in observation.loops] == list(range(100))
    assert all(loop.events and not loop.dropped for loop in observation.loops)
    assert observation.loops[20].turn.longest >= 150_000_000
    assert ("exception-in-callback", 20) in [
        (finding.kind, finding.loop) for finding in find(observation)
    ]


def test_the_errors_of_loops_that_have_ended_are_recorded(tmp_path: Path) -> None:
    async def fail() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)

    path = tmp_path / "x.noria"
    with noria.record(path, socket=False):
        noria.run(fail())
        for _ in range(40):
            noria.run(asyncio.sleep(0))
    observation = observe_recording(path)
    assert len(observation.loops) == 41
    (error,) = observation.loops[0].errors
    assert error.type == "ZeroDivisionError"


def test_rings_are_freed_while_loops_come_and_go(tmp_path: Path) -> None:
    with noria.record(tmp_path / "x.noria", socket=False) as recording:
        agent = recording.agent
        assert agent is not None
        for _ in range(100):
            noria.run(asyncio.sleep(0))
            assert len(agent.loops) <= agent_module.MAX_UNREAD_LOOPS + 2


def test_loops_of_many_threads_are_all_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that began while another one waited for the readers freed what was not read."""
    monkeypatch.setattr(agent_module, "READ_SECONDS", 30)
    path = tmp_path / "x.noria"

    def work() -> None:
        for _ in range(20):
            noria.run(asyncio.sleep(0))

    with noria.record(path, socket=False):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    observation = observe_recording(path)
    assert (len(observation.loops), observation.loops_lost) == (160, 0)


def test_loops_that_could_not_be_read_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "READ_SECONDS", 0.05)
    path = tmp_path / "x.noria"
    busy = threading.Event()
    with noria.watch(socket=False) as watch:
        assert watch.agent is not None
        watch.agent.add_reader(lambda loops: busy.wait(20) and None)
        with noria.record(path):
            for _ in range(100):
                noria.run(asyncio.sleep(0))
            busy.set()
    observation = observe_recording(path)
    assert 0 < observation.loops_lost <= 100
    assert len(observation.loops) + observation.loops_lost == 100
    assert f"loops not recorded: {observation.loops_lost} (" in render(observation, [])


def test_the_page_has_the_loops_with_findings_and_the_busiest_of_many(tmp_path: Path) -> None:
    async def spin(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    path = tmp_path / "x.noria"
    with noria.record(path, socket=False):
        for number in range(MAX_LOOPS + 20):
            noria.run(spin(300 if number == 3 else 1))
    observation = observe_recording(path)
    data = page_data(observation, [], {}, {})
    assert len(data["loops"]) == MAX_LOOPS
    assert data["loops_hidden"] == 20
    assert 3 in [loop["id"] for loop in data["loops"]]
