"""The watchdog: notices that a loop is blocked while it is, and takes the stack of its thread.

Its thread waits in compiled code without the GIL, `noria._core.recorder.watchdog`. C code that
holds the GIL delays it until the interpreter is at the line that called this code.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from types import FrameType
from typing import TYPE_CHECKING, Any

from noria._core.recorder.watchdog import LoopWatcher
from noria.sight.block_report import BlockReport
from noria.sight.places import PlaceTuple, frame_of_thread, place_of_code, stack_of_frame

if TYPE_CHECKING:
    from noria.sight.agent import Agent

MAX_SAMPLES_KEPT = 20  # different innermost places of a block
STILL_FACTOR = 10  # a block is reported again when it is this many times longer
# Files of debuggers: a program that is stopped at a breakpoint is not blocked by its code.
_DEBUGGER_FILES = ("pdb.py", "bdb.py", "pydevd.py", "pydevd_frame.py")
_DEBUGGER_FOLDERS = ("pydevd", "_pydevd_bundle", "debugpy", "pudb", "ipdb")


class _Block:
    """A block that lasts."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.samples: Counter[PlaceTuple] = Counter()
        self.reported_at = fields["duration"]


class Watchdog:
    """The thread that watches the loops of an agent."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.report = BlockReport(agent.settings.report_blocks)
        self._watcher = LoopWatcher(agent.settings.max_block)
        self._blocks: dict[int, _Block] = {}  # by loop id
        self._thread = threading.Thread(target=self._run, name="noria-watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.loops_changed()
        self._thread.start()

    def loops_changed(self) -> None:
        """Watch the loops that the agent has now."""
        self._watcher.watch(
            [
                (watched.id, watched.recorder.open_readonly())
                for watched in self.agent.loops
                if not watched.released and watched.loop is not None
            ]
        )

    def stop(self) -> None:
        """End the thread and free everything."""
        self._watcher.stop()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._watcher.close()

    def abandon(self) -> None:
        """In the child of a fork, which does not have the thread: free everything."""
        self._watcher.close()

    def _run(self) -> None:
        while (event := self._watcher.wait()) is not None:
            try:
                self._handle(*event)
            except Exception as error:
                print(f"noria: the watchdog failed: {error!r}", file=sys.__stderr__)

    def _handle(
        self,
        event: str,
        loop: int,
        started: int,
        duration: int,
        excused: int,
        cpu: int,
        runqueue: int,
        gil_wait: int,
        gil_cpu: int,
        over: bool,
    ) -> None:
        duration = max(duration - excused, 0)
        if event == "ended":
            self._end(loop, duration, cpu, runqueue)
            return
        frame = None if over else frame_of_thread(self._watcher.thread_of(loop))
        if _in_debugger(frame):
            self._blocks.pop(loop, None)
            return
        if event == "blocked":
            # A thread that runs Python code releases the GIL after the switch interval.
            held = gil_wait > 4e9 * sys.getswitchinterval() + 10e6
            by_loop = held and 2 * gil_cpu > gil_wait
            self._begin(loop, started, duration, cpu, runqueue, (held, by_loop), frame)
        else:
            self._sample(loop, duration, cpu, runqueue, frame)

    def _begin(
        self,
        loop: int,
        started: int,
        duration: int,
        cpu: int,
        runqueue: int,
        gil: tuple[bool, bool],
        frame: FrameType | None,
    ) -> None:
        held, by_loop = gil
        figures = self._watcher.turn_figures(loop, started) or {}
        try:
            watched = self.agent.loop_of_id(loop)
        except ValueError:
            return
        stack = stack_of_frame(frame) if frame is not None else _place_of_longest(watched, figures)
        block = {
            "loop": loop,
            "started": started,
            "duration": duration,
            "ended": False,
            "stack": stack,
            "task": _current_task(watched.loop),
            "events_waiting": figures.get("next") or _waiting(figures),
            "gil_held": by_loop,
            "cpu": cpu,
            "runqueue": runqueue,
            "samples": [],
        }
        kept = self._blocks[loop] = _Block(block)
        if stack:
            kept.samples[stack[-1]] += 1
        context = {
            "thread": watched.thread_name,
            "other_thread": held and not by_loop,
            "handlers": figures.get("handlers", 0),
            "longest": figures.get("longest", 0),
            "many": figures.get("handlers", 0) > 1
            and figures.get("longest", duration) < self.agent.settings.max_block,
        }
        self.agent.blocks.add(block)
        self.report.begin(block, context)
        self.agent.blocked(block)

    def _sample(
        self, loop: int, duration: int, cpu: int, runqueue: int, frame: FrameType | None
    ) -> None:
        kept = self._blocks.get(loop)
        if kept is None:
            return
        block = kept.fields
        block["duration"] = duration
        block["cpu"] = cpu
        block["runqueue"] = runqueue
        if frame is not None and (
            len(kept.samples) < MAX_SAMPLES_KEPT
            or place_of_code(frame.f_code, frame.f_lineno) in kept.samples
        ):
            kept.samples[place_of_code(frame.f_code, frame.f_lineno)] += 1
        if duration >= STILL_FACTOR * kept.reported_at:
            kept.reported_at = duration
            block["samples"] = kept.samples.most_common()
            self.agent.blocks.add(block)
            self.report.still(block)

    def _end(self, loop: int, duration: int, cpu: int, runqueue: int) -> None:
        kept = self._blocks.pop(loop, None)
        if kept is None:
            return
        block = kept.fields
        figures = self._watcher.turn_figures(loop, block["started"]) or {}
        block["duration"] = duration
        block["ended"] = True
        block["cpu"] = cpu
        block["runqueue"] = runqueue
        block["samples"] = kept.samples.most_common()
        block["events_waiting"] = figures.get("after", 0) + figures.get("next", 0)
        self.agent.blocks.add(block)
        self.report.end(block)


def _place_of_longest(watched: Any, figures: dict[str, Any]) -> list[PlaceTuple]:
    """Return the place of the turn's longest handler, as the ring names it."""
    wanted = figures.get("a", 0) & 0xFFFFFFFFFFFF
    for number, kind, name, file, line in watched.recorder.names_after(0):
        if number == wanted and kind == "code":
            return [(name, file, line, "")]
    return []


def _waiting(figures: dict[str, Any]) -> int:
    return max(int(figures.get("queued", 0)) - int(figures.get("handlers", 0)), 0)


def _current_task(loop: Any) -> str:
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return ""
    task = asyncio.current_task(loop)
    return task.get_name() if task is not None else ""


def _in_debugger(frame: FrameType | None) -> bool:
    """Whether a debugger waits for its user in a thread, or traces it."""
    while frame is not None:
        file = frame.f_code.co_filename
        folder, name = os.path.split(file)
        if name in _DEBUGGER_FILES or os.path.basename(folder) in _DEBUGGER_FOLDERS:
            return True
        trace = frame.f_trace
        owner = getattr(trace, "__self__", None)
        if owner is not None and any(cls.__name__ == "Bdb" for cls in type(owner).__mro__):
            return True
        frame = frame.f_back
    return False
