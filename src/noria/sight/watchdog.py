"""The watchdog: detects a blocked loop while it is blocked, and takes the stack of its thread.

Its thread waits in compiled code without the GIL, `noria._core.recorder.watchdog`. C code that
holds the GIL delays it until the interpreter is at the line that called this code.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from noria._core.recorder.watchdog import LoopWatcher
from noria.sight.block_report import BlockReport
from noria.sight.messages import warn
from noria.sight.places import PlaceTuple, innermost_user_place, is_import, place_of_code

if TYPE_CHECKING:
    from noria.sight.agent import Agent

LOOP_FUNCTIONS = ("AsyncioBase.run_forever", "Reactor.run", "Reactor.run_once")
_SIGHT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_NORIA = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
SYNC_SECONDS = 0.2
MAX_SAMPLES_KEPT = 20  # different innermost places of a block
STILL_FACTOR = 10  # a block is reported again when it is this many times longer
# Files of debuggers: a program that is stopped at a breakpoint is not blocked by its code.
_DEBUGGER_FILES = ("pdb.py", "bdb.py", "pydevd.py", "pydevd_frame.py")
_DEBUGGER_FOLDERS = ("pydevd", "_pydevd_bundle", "debugpy", "pudb", "ipdb")


class _Event(NamedTuple):
    """What LoopWatcher.wait returns. Times are in ns."""

    kind: str  # "blocked", "still", "ended", "excused"
    loop: int
    started: int
    duration: int
    excused: int
    cpu: int
    runqueue: int
    gil_wait: int
    gil_cpu: int
    over: bool

    @property
    def counted(self) -> int:
        """The duration without the time in which the process was stopped or debugged."""
        return max(self.duration - self.excused, 0)


class _Block:
    """A block that has not ended."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.samples: Counter[PlaceTuple] = Counter()
        self.reported_at = fields["duration"]

    def ran(self, event: _Event) -> None:
        """Store what the thread has done so far. Once the run has ended, the event has zeros."""
        self.fields["cpu"] = max(self.fields["cpu"], event.cpu)
        self.fields["runqueue"] = max(self.fields["runqueue"], event.runqueue)
        if not event.over:
            self.fields["gil_wait"] += event.gil_wait

    def see(self, stack: list[PlaceTuple]) -> None:
        """Count the program's innermost line of a stack."""
        place = innermost_user_place(stack)
        if place is not None and (len(self.samples) < MAX_SAMPLES_KEPT or place in self.samples):
            self.samples[place] += 1
            self.fields["importing"] += is_import(stack)


class Watchdog:
    """The thread that watches the loops of an agent."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.report = BlockReport(agent.settings.report_blocks)
        self._watcher = LoopWatcher(agent.settings.max_block)
        self._blocks: dict[int, _Block] = {}  # by loop id
        # Stacks that the agent's thread has taken, and of which turn, by loop id.
        self._early: dict[int, tuple[int, list[tuple[CodeType, int, Any]]]] = {}
        self._debugged: set[int] = set()  # loops whose turn a debugger has stopped
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
                # A closed one until the end of its last block was noticed.
                if not watched.released and (watched.loop is not None or watched.id in self._blocks)
            ]
        )

    def stop(self) -> None:
        """End the thread and free everything."""
        self._watcher.stop()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._watcher.close()

    def sync(self) -> None:
        """Wait until the ends of blocks that are over are noticed, at most SYNC_SECONDS."""
        end = time.monotonic() + SYNC_SECONDS
        while self._blocks and time.monotonic() < end:
            self._watcher.wake()
            time.sleep(0.002)

    def update_blocks(self) -> None:
        """Add what is known by now of the blocks that last to the agent's blocks."""
        for kept in list(self._blocks.values()):
            kept.fields["samples"] = kept.samples.most_common()
            self.agent.blocks.add(kept.fields)

    def abandon(self) -> None:
        """In the child of a fork, which does not have the thread: free everything."""
        self._watcher.close()

    def peek(self) -> None:
        """Take the stack of a blocked loop for this thread, which waits for the GIL.

        The agent's thread calls it whenever it has got the GIL.
        """
        found = self._watcher.peek()
        if found is None:
            return
        loop, turn, stack = found
        early = self._early.get(loop)
        # The first one is nearest to what has kept the GIL.
        if early is None or early[0] != turn:
            self._early[loop] = turn, stack

    def _run(self) -> None:
        while (values := self._watcher.wait()) is not None:
            stack = self._watcher.stack
            early = self._early.pop(values[1], None)
            # A thread may have been switched between looking and taking: only of this very turn.
            if values[0] == "blocked" and early is not None and early[0] == self._watcher.turn:
                stack, values = early[1], (*values[:-1], False)
            try:
                self._handle(stack, _Event(*values))
            except Exception as error:
                warn(f"the watchdog failed: {error!r}")

    def _handle(self, stack: list[tuple[CodeType, int, Any]], event: _Event) -> None:
        loop = event.loop
        if event.kind == "excused":
            waited = min(event.runqueue, event.counted)
            self._excuse(event, event.counted - waited, event.excused + waited)
        elif event.kind == "ended":
            if loop in self._debugged:
                self._debugged.discard(loop)
                self._excuse(event, 0, event.counted + event.excused)
            self._end(event)
        elif _in_debugger(stack):
            self._blocks.pop(loop, None)
            self._debugged.add(loop)
        else:
            places = [] if event.over else _places_in_loop(stack)
            if event.kind == "blocked":
                self._begin(event, places)
            else:
                self._sample(event, places)

    def _begin(self, event: _Event, seen: list[PlaceTuple]) -> None:
        loop = event.loop
        try:
            watched = self.agent.loop_of_id(loop)
        except ValueError:
            return
        # A thread that runs Python code releases the GIL after the switch interval.
        held = event.gil_wait > 4e9 * sys.getswitchinterval() + 10e6
        by_loop = held and 2 * event.gil_cpu > event.gil_wait
        task = _current_task(watched.loop)
        figures = self._watcher.turn_figures(loop) or {}
        # Without a stack: the turn was over, or the program's code had returned to the loop.
        stack = seen or _place_of_longest(watched, figures)
        block = {
            "loop": loop,
            "started": event.started,
            "duration": event.counted,
            "ended": False,
            "stack": stack,
            "task": task,
            "events_waiting": figures.get("next") or _waiting(figures),
            "gil_held": by_loop,
            "cpu": event.cpu,
            "runqueue": event.runqueue,
            "gil_wait": 0 if event.over else event.gil_wait,
            "samples": [],
            "importing": 0,
        }
        kept = self._blocks[loop] = _Block(block)
        kept.see(seen)
        context = {
            "thread": watched.thread_name,
            "other_thread": held and not by_loop,
            "handlers": figures.get("handlers", 0),
            "longest": figures.get("longest", 0),
            "many": figures.get("handlers", 0) > 1
            and figures.get("longest", event.counted) < self.agent.settings.max_block,
        }
        self.agent.blocks.add(block)
        self.report.begin(block, context)
        self.agent.blocked(block)

    def _sample(self, event: _Event, stack: list[PlaceTuple]) -> None:
        kept = self._blocks.get(event.loop)
        if kept is None:
            return
        block = kept.fields
        duration = block["duration"] = event.counted
        kept.ran(event)
        kept.see(stack)
        if duration >= STILL_FACTOR * kept.reported_at:
            kept.reported_at = duration
            block["samples"] = kept.samples.most_common()
            self.agent.blocks.add(block)
            self.report.still(block)

    def _excuse(self, event: _Event, duration: int, excused: int) -> None:
        """Add a turn that was long only because it did not run, or was debugged."""
        if duration < self.agent.settings.max_block:
            self.agent.blocks.add(
                {
                    "loop": event.loop,
                    "started": event.started,
                    "duration": duration,
                    "excused": excused,
                    "ended": True,
                    "stack": [],
                }
            )

    def _end(self, event: _Event) -> None:
        kept = self._blocks.pop(event.loop, None)
        if kept is None:
            return
        block = kept.fields
        figures = self._watcher.turn_figures(event.loop) or {}
        block["duration"] = event.counted
        block["excused"] = event.excused
        block["ended"] = True
        kept.ran(event)
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


def _places_in_loop(stack: list[tuple[CodeType, int, Any]]) -> list[PlaceTuple]:
    """Return the places that the loop has called, outermost first."""
    inside = []
    for code, line, _ in stack:
        if code.co_filename.startswith(_NORIA) and code.co_qualname in LOOP_FUNCTIONS:
            break
        # A callback of the garbage collector may have been called by the program's code.
        if not code.co_filename.startswith(_SIGHT):
            inside.append(place_of_code(code, line))
    if inside and inside[-1][0] == "Handle._run":
        inside.pop()  # asyncio's, in debug mode
    inside.reverse()
    return inside


def _in_debugger(stack: list[tuple[CodeType, int, Any]]) -> bool:
    """Whether a debugger waits for its user in a thread, or traces it."""
    for code, _, trace in stack:
        folder, name = os.path.split(code.co_filename)
        if name in _DEBUGGER_FILES or os.path.basename(folder) in _DEBUGGER_FOLDERS:
            return True
        owner = getattr(trace, "__self__", None)
        if owner is not None and any(cls.__name__ == "Bdb" for cls in type(owner).__mro__):
            return True
    return False
