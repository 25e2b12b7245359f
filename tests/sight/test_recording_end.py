"""Recordings that end within a handler, and those of loops that are not noria's."""

from __future__ import annotations

import asyncio
import time
import warnings
from pathlib import Path

import pytest

import noria
from noria.sight.recording import Recording, observe_recording
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("runtime_directory")

MS = 1_000_000


def test_a_handler_that_ends_the_recording_lasts_until_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"

    async def main() -> None:
        async with noria.record(path, max_block=0.05, socket=False, report_blocks=False):
            await asyncio.sleep(0.01)
            time.sleep(0.3)

    noria.run(main())
    observation = observe_recording(path)
    (loop,) = observation.loops
    assert loop.handler.longest >= 300 * MS
    assert loop.turn.longest >= 300 * MS
    assert loop.slow[0].place.function.endswith("main")
    (block,) = loop.blocks
    assert block.ended
    assert 300 * MS <= block.duration <= loop.end - loop.begin
    assert block.stack[-1].function.endswith("main")


def test_a_block_whose_handler_began_before_the_recording_lasts_until_its_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.noria"

    async def main() -> None:
        with noria.record(path, max_block=0.05, socket=False, report_blocks=False) as recording:
            agent = recording.agent
            assert agent is not None
            began = time.monotonic_ns()
            eventually(lambda: agent.blocks.latest)
            time.sleep(0.1)
            durations.append(time.monotonic_ns() - began)

    durations: list[int] = []
    noria.run(main())
    (loop,) = observe_recording(path).loops
    (block,) = loop.blocks
    assert block.duration >= durations[0] - MS


def test_others_that_observe_the_loop_do_not_see_the_handler_end(tmp_path: Path) -> None:
    first, second = tmp_path / "first.noria", tmp_path / "second.noria"

    async def main() -> None:
        with noria.record(first, socket=False):
            await asyncio.sleep(0.01)
            with noria.record(second, socket=False):
                await asyncio.sleep(0.01)
                time.sleep(0.05)
            time.sleep(0.15)
            await asyncio.sleep(0.01)

    noria.run(main())
    (outer,) = observe_recording(first).loops
    (inner,) = observe_recording(second).loops
    assert outer.handler.longest >= 200 * MS
    assert 50 * MS <= inner.handler.longest <= outer.handler.longest - 150 * MS


def test_a_running_loop_that_is_not_norias_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"

    async def main() -> None:
        message = "is not noria's and is not watched"
        with pytest.warns(RuntimeWarning, match=message) as seen:
            recording = noria.record(path, socket=False)
        async with recording:
            await asyncio.sleep(0)
        with pytest.warns(RuntimeWarning, match=message):
            noria.watch(socket=False).stop()
        assert [warning.filename for warning in seen] == [__file__]

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    with Recording.open(path) as recording:
        assert not recording.loops()


def test_norias_loop_and_a_thread_without_a_loop_are_not_warned_of(tmp_path: Path) -> None:
    async def main() -> None:
        with noria.record(tmp_path / "x.noria", socket=False):
            await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noria.run(main())
        noria.watch(socket=False).stop()
