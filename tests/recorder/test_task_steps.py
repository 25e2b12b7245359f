"""Steps of tasks are recorded as such, whichever way the recorder recognises them."""

from __future__ import annotations

import re

import pytest

from noria._core.recorder import calls
from support.running import ROOT, run

EVENTS = (ROOT / "src/noria/_core/recorder/events.pxd").read_text()
KINDS = re.findall(r"^    (CALL|STEP|TIMER_CALL|TIMER_STEP) = (\d+)", EVENTS, re.MULTILINE)

# The names of the callbacks and of the coroutines whose steps are recorded, in order.
PROGRAM = """
import asyncio, struct, sys
from asyncio import tasks

way, *numbers = sys.argv[1:]
KINDS = {int(number): name for number, name in zip(numbers[::2], numbers[1::2])}
if way == "python":
    asyncio.Task = tasks.Task = tasks._PyTask

import noria
from noria._core.recorder import calls
from noria._core.recorder.reader import RingReader
from noria._core.recorder.ring import Recorder

if way != "layout":
    calls.task_layout = lambda: None

async def child(future):
    await asyncio.sleep(0)
    await future
    await asyncio.sleep(0.001)

async def main():
    loop = asyncio.get_running_loop()
    recorder = Recorder(1 << 12)
    reader = RingReader(recorder.fd)
    loop.attach_recorder(recorder)
    future = loop.create_future()
    task = loop.create_task(child(future))
    loop.call_soon(int)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    future.set_result(None)
    await task
    loop.detach_recorder()
    names = {number: name for number, _, name, *_ in recorder.names_after(0)}
    for stamp, a, b in struct.iter_unpack("=QQQ", reader.pull()):
        kind = KINDS.get(stamp & 0x7F)
        if kind:
            print(kind, names.get(a & (1 << 48) - 1), b == id(task))
    reader.close()
    recorder.close()

noria.run(main())
"""


def test_the_layout_of_compiled_tasks_is_found():
    # Without it each step costs attribute accesses: on a new Python, look at probe_task.
    assert calls.task_layout() is not None


@pytest.mark.parametrize("way", ["layout", "attributes", "python"])
def test_the_steps_of_a_task_are_recorded(way: str):
    """*way*: how they are recognised; "attributes" is for a layout that was not found."""
    arguments = [text for name, number in KINDS for text in (number, name)]
    assert len(KINDS) == 4
    assert run(PROGRAM, way, *arguments).splitlines() == [
        "STEP child True",
        "CALL int False",
        "STEP main False",
        "STEP child True",
        "STEP main False",
        "STEP child True",
        "TIMER_CALL _set_result_unless_cancelled False",
        "STEP child True",
        "STEP main False",
    ]
