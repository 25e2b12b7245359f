"""The figures of one loop, merged from its records, names, snapshots, blocks and errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from noria._core.recorder.analysis import Analysis
from noria.sight.connection_observer import ConnectionObserver
from noria.sight.json_values import dictionaries, fill, integer
from noria.sight.names import Names
from noria.sight.observation import (
    Block,
    CodeFigures,
    Distribution,
    ErrorFigures,
    ExecutorFigures,
    FileFigures,
    GcFigures,
    LoopFigures,
    Place,
    Sample,
    SlowCall,
    TaskFigures,
    TimerFigures,
)

MAX_BLOCKS = 1000
MAX_ERRORS = 1000
EXCUSED_BEFORE = 1_000_000  # ns by which the watchdog may see a turn begin after its first handler
MAX_SEEN_TASKS = 20_000  # tasks whose last await stack is kept after their end
HELD_LONG = ("Lock",)  # what tasks wait for until another one releases it

_RECORDED = (
    "running",
    "begin",
    "end",
    "busy",
    "waiting",
    "turns",
    "waits",
    "polls",
    "empty_polls",
    "events",
    "callbacks",
    "steps",
    "io",
    "wakeups",
    "records",
    "tasks_created",
    "connections_opened",
)
# Of a task in a snapshot: what holds of one that has ended, too, and the rest.
_LAST_AWAIT = ("name", "coroutine", "waiting_at", "waiting_for", "awaited_by", "main", "orphaned")
_OF_SNAPSHOT = (*_LAST_AWAIT, "state", "waiting_since")


@dataclass(slots=True)
class _SeenTask:
    """A task as a snapshot had it last."""

    time: int
    fields: dict[str, Any]
    # The first snapshot that said so, without an interruption; 0: it was not, or did not.
    orphaned_since: int = 0
    locked_since: int = 0


@dataclass(frozen=True)
class Limits:
    """How much of a loop an observation contains."""

    tasks: int  # beside those of the last snapshot
    connections: int
    samples: int
    keep_latest: bool


class LoopObserver:
    """Merges the figures of a loop."""

    def __init__(self, number: int, analysis: Analysis, limits: Limits) -> None:
        self.number = number
        self.analysis = analysis
        self.names = Names()
        self.dropped = 0
        self.realtime_offset = 0
        self._limits = limits
        self._info: dict[str, Any] = {}
        self._snapshot: dict[str, Any] = {}
        self._snapshot_time = 0
        self._blocks: dict[int, dict[str, Any]] = {}
        self._errors: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._collections: list[dict[str, Any]] = []
        self._collection_times: dict[str, Any] = {}
        # (native id, ns run, ns waited) of the loop's thread: at first, and now.
        self._schedstat = ((0, 0, 0), (0, 0, 0))
        self._seen_tasks: dict[int, _SeenTask] = {}
        # The ids of the tasks that had not ended when the loop was closed; None: unknown.
        self._tasks_left: frozenset[int] | None = None
        self._connections = ConnectionObserver(analysis, self.names)

    def update(self, info: dict[str, Any]) -> None:
        """Take model, thread_name and the like."""
        self._info.update(info)

    def drop(self, count: int) -> None:
        """Records are missing before the next ones."""
        if count > 0:
            self.dropped += count
            self.analysis.gap()

    def take_snapshot(self, snapshot: dict[str, Any], time: int, *, alone: bool) -> None:
        """Take this loop's part of a snapshot; *alone*: the process has no other loop."""
        self._collections = dictionaries(snapshot.get("gc"))
        times = snapshot.get("gc_times")
        self._collection_times = times if isinstance(times, dict) else {}
        self.take_errors(dictionaries(snapshot.get("errors")))
        if snapshot.get("closed") is True:
            left = snapshot.get("tasks_left")
            if isinstance(left, list):
                self._tasks_left = frozenset(map(integer, left))
            return  # its tasks and connections are those of the snapshot before
        self._snapshot = snapshot
        self._snapshot_time = time
        self._take_schedstat(snapshot.get("schedstat"))
        self._see_tasks(dictionaries(snapshot.get("tasks")), time)
        self._connections.take_snapshot(dictionaries(snapshot.get("connections")), time, alone)

    def _take_schedstat(self, value: Any) -> None:
        if not isinstance(value, list) or len(value) != 3:
            return
        thread, run, waited = (integer(each) for each in value)
        first, _ = self._schedstat
        now = (thread, run, waited)
        self._schedstat = (first if first[0] == thread else now, now)

    def take_block(self, block: dict[str, Any]) -> None:
        """Take a block; one with the same `started` replaces it."""
        self._blocks[integer(block.get("started"))] = block
        if len(self._blocks) > MAX_BLOCKS:
            del self._blocks[next(iter(self._blocks))]

    def take_errors(self, errors: list[dict[str, Any]]) -> None:
        """Take errors; one of the same type, message, kind and place replaces it."""
        for error in errors:
            key = tuple(str(error.get(name)) for name in ("kind", "type", "message", "place"))
            self._errors[key] = error
            if len(self._errors) > MAX_ERRORS:
                del self._errors[next(iter(self._errors))]

    # The figures.

    def figures(self) -> LoopFigures:
        """Return everything that is known."""
        raw = self.analysis.figures()
        self.realtime_offset = raw["realtime_offset"]
        loop = LoopFigures(self.number, dropped=self.dropped)
        fill(loop, self._info, "model", "thread_name", "closed")
        for name in _RECORDED:
            setattr(loop, name, raw[name])
        if isinstance(self._snapshot.get("running"), bool) and not raw["turns"]:
            loop.running = self._snapshot["running"]
        (_, *first), (_, *now) = self._schedstat
        loop.cpu, loop.runqueue = (max(b - a, 0) for a, b in zip(first, now, strict=True))
        loop.system_calls = self._counters(raw)
        loop.turn = Distribution(*raw["turn"])
        loop.queue_delay = Distribution(*raw["queue_delay"])
        loop.handler = Distribution(*raw["handler"])
        loop.codes = self._codes(raw["codes"])
        loop.slow = self._slow_calls(raw["slow"])
        if raw["running_call"] is not None:
            kind, code, start, task_id, fd, waiting = raw["running_call"]
            loop.running_call = SlowCall(
                kind, self.names.handler(kind, code), start, loop.end - start, task_id, fd, waiting
            )
        loop.tasks = self._tasks(loop)
        loop.tasks_alive = self._tasks_alive(loop.tasks)
        loop.connections = self._connections.figures(self._limits.connections)
        loop.connections_open = max(
            raw["connections_open"], sum(not each.closed for each in loop.connections)
        )
        self._set_rest(loop, raw)
        loop.blocks = self._merged_blocks(raw, {task.id: task.name for task in loop.tasks})
        loop.errors = self._all_errors(raw["exceptions"])
        loop.samples = [Sample(*sample) for sample in self.analysis.samples()]
        return loop

    def _counters(self, raw: dict[str, Any]) -> dict[str, int]:
        """Return the counters since the begin: those of the records, or of the snapshot.

        A loop writes them while it runs, some times a second: those of the snapshot are newer if
        the loop has slept since.
        """
        snapshot = self._snapshot.get("counters")
        if not isinstance(snapshot, dict):
            snapshot = {}
        first = raw["first_counters"]
        return {
            name: max(value, integer(snapshot.get(name)) - first[name])
            for name, value in raw["counters"].items()
        }

    def _set_rest(self, loop: LoopFigures, raw: dict[str, Any]) -> None:
        """Set the figures of timers, files, executors and collections."""
        timers = self._snapshot.get("timers")
        pending = integer(timers.get("pending")) if isinstance(timers, dict) else 0
        loop.timers = TimerFigures(
            raw["timers_pending"] or pending,
            raw["timers_fired"],
            Distribution(*raw["lateness"]),
            [code for code in loop.codes if code.kind == "timer"],
        )
        begun, in_flight, failed, duration = raw["files"]
        loop.files = FileFigures(begun, in_flight, failed, Distribution(*duration))
        submitted, finished, queued, running, waiting, duration, codes = raw["jobs"]
        loop.executor = ExecutorFigures(
            queued=queued,
            running=running,
            submitted=submitted,
            finished=finished,
            waiting=Distribution(*waiting),
            duration=Distribution(*duration),
            by_code=self._codes(codes),
        )
        executor = self._snapshot.get("executor")
        if isinstance(executor, dict):
            fill(loop.executor, executor, "workers", "max_workers")
        collections, collected, pauses, codes = raw["gc"]
        lines = [_collecting_line(each) for each in self._collections] or self._codes(codes)
        lines.sort(key=lambda code: -code.busy)
        longest = _pauses(self._collections)
        loop.gc = GcFigures(collections, collected, Distribution(*pauses), lines, longest)
        fill(loop.gc, self._collection_times, "run", "longest_run")

    def _codes(self, codes: list[tuple[str, int, int, int, int]]) -> list[CodeFigures]:
        """Return figures by code, those with the most time first."""
        codes = sorted(codes, key=lambda code: code[3], reverse=True)
        return [
            CodeFigures(number, kind, self.names.handler(kind, number), calls, busy, longest)
            for kind, number, calls, busy, longest in codes
        ]

    # Tasks.

    def _see_tasks(self, tasks: list[dict[str, Any]], time: int) -> None:
        """Remember the tasks of a snapshot, for when they have ended."""
        locked = {
            integer(fields.get("id")) for fields in tasks if fields.get("waiting_for") in HELD_LONG
        }
        steps = {values[0]: values[9] for values in self.analysis.tasks(0, locked)}
        for fields in tasks:
            number = integer(fields.get("id"))
            before = self._seen_tasks.pop(number, None)
            seen = self._seen_tasks[number] = _SeenTask(time, fields)
            if fields.get("orphaned") is True:
                seen.orphaned_since = (before.orphaned_since if before is not None else 0) or time
            if number in locked:
                still = before is not None and steps.get(number, 0) <= before.time
                seen.locked_since = (before.locked_since if before and still else 0) or time
        while len(self._seen_tasks) > MAX_SEEN_TASKS:
            del self._seen_tasks[next(iter(self._seen_tasks))]

    def _fill_ended(self, task: TaskFigures, replaced: int) -> None:
        """Add where a task waited before that the last snapshot does not have, or that has ended.

        *replaced* is when another task got its address; 0: none has.
        """
        seen = self._seen_tasks.get(task.id)
        if seen is None or seen.time < task.created or 0 < replaced <= seen.time:
            return
        fill(task, seen.fields, *_LAST_AWAIT)
        task.waiting_since = task.waiting_since or seen.orphaned_since
        if task.state == "done":
            task.waiting_since = task.waiting_since or seen.locked_since
            if task.waiting_since:
                task.ended = max(task.ended, seen.time)

    def _tasks_alive(self, tasks: list[TaskFigures]) -> int | None:
        """Return the number of tasks that have not ended, if it is known."""
        if self._tasks_left is not None:
            return len(self._tasks_left)
        if not self._snapshot_time:
            return None
        alive = self._snapshot.get("tasks_alive")
        if isinstance(alive, int):
            return alive
        return sum(task.state not in ("", "done") for task in tasks)

    def _has_ended(self, number: int) -> bool:
        """Whether a task had ended when its loop was closed."""
        return self._tasks_left is not None and number not in self._tasks_left

    def _tasks(self, loop: LoopFigures) -> list[TaskFigures]:
        """Return the tasks of the last snapshot, then others."""
        snapshot = {
            integer(each.get("id")): each for each in dictionaries(self._snapshot.get("tasks"))
        }
        complete = integer(self._snapshot.get("tasks_alive")) <= len(snapshot)
        known = self.analysis.tasks(self._limits.tasks, snapshot)
        tasks: list[TaskFigures] = []
        for values in known:
            number, code, name, created, replaced = values[:5]
            task = TaskFigures(number, self.names.text(name), self.names.place(code))
            task.created = created
            task.steps, task.busy, task.scheduled = values[5:8]
            task.longest_step, task.last_step, task.self_wakes = values[8:]
            fields = snapshot.get(number)
            if replaced or self._has_ended(number):
                task.state, task.ended = "done", task.last_step or replaced or created
            elif fields is not None and created <= self._snapshot_time:
                del snapshot[number]
                self._fill_task(task, fields)
            elif not self._snapshot_time:
                pass
            elif max(created, task.last_step) > self._snapshot_time:
                task.state = "waiting" if task.steps else "scheduled"
            elif complete:
                task.state, task.ended = "done", task.last_step or created
            if not task.waiting_at:
                self._fill_ended(task, replaced)
            tasks.append(task)
        addresses = {values[0] for values in known}
        for number, fields in snapshot.items():
            if number in addresses:
                continue  # it has ended since, and another task has its address
            task = TaskFigures(number)
            self._fill_task(task, fields)
            if self._has_ended(number):
                task.state, task.waiting_since = "done", 0
            tasks.append(task)
        tasks.sort(key=lambda task: (task.state in ("done", ""), -task.busy))
        return tasks

    def _fill_task(self, task: TaskFigures, fields: dict[str, Any]) -> None:
        fill(task, fields, *_OF_SNAPSHOT)
        if not task.created:
            fill(task, fields, "created")
        if task.last_step > self._snapshot_time and task.state != "running":
            # It has run since: the snapshot's await stack is the last that is known.
            seen = self._seen_tasks.get(task.id)
            task.waiting_since = seen.orphaned_since if seen is not None else 0
        if task.state == "waiting" and not task.waiting_since:
            task.waiting_since = task.last_step or task.created or self.analysis.begin
        elif task.state == "done":
            task.ended = task.ended or task.last_step

    # Blocks and errors.

    def _slow_calls(self, calls: Iterable[Any]) -> list[SlowCall]:
        """Return the longest calls, without the time in which the process was stopped."""
        excused = self._excused_turns()
        found = []
        for kind, code, start, duration, task, fd, waiting in calls:
            for begin, end, counted in excused:
                if begin <= start < end:
                    duration = min(duration, counted)
            if duration:
                handler = self.names.handler(kind, code)
                found.append(SlowCall(kind, handler, start, duration, task, fd, waiting))
        found.sort(key=lambda call: -call.duration)
        return found

    def _excused_turns(self) -> list[tuple[int, int, int]]:
        """Return (begin, end, ns that count) of each turn in which the process was stopped or
        debugged; 0 ns if nothing else made it long."""
        turns = []
        for block in self._blocks.values():
            if excused := integer(block.get("excused")):
                started, duration = integer(block.get("started")), integer(block.get("duration"))
                counted = duration if block.get("stack") else 0
                turns.append((started - EXCUSED_BEFORE, started + duration + excused, counted))
        return turns

    def _merged_blocks(self, raw: dict[str, Any], tasks: dict[int, str]) -> list[Block]:
        """Return the watchdog's blocks with what the records say of their turns, and the long
        turns that it has not seen."""
        everything = raw["queue_delay"][1]
        seen: list[Block] = []
        for fields in self._blocks.values():
            block = Block(0, 0)
            fill(block, fields)
            seen.append(block)
        seen.sort(key=lambda block: block.started)
        blocks: list[Block] = []
        position = 0
        for start, end, delay, waited, _, code, task, handlers in raw["long_turns"]:
            share = delay / everything if everything else 0.0
            matching = None
            while position < len(seen) and seen[position].started < end:
                block = seen[position]
                position += 1
                if block.started + block.duration + block.excused > start and matching is None:
                    matching = block
                else:
                    blocks.append(block)
            if matching is None:
                matching = Block(start, end - start, stack=[self.names.place(code)])
                matching.task = tasks.get(task, "") if task else ""
            if matching.excused and not matching.stack:
                continue  # long only because the process was stopped or debugged
            matching.started, matching.ended = start, True
            matching.duration = end - start - matching.excused
            matching.events_waiting = max(matching.events_waiting, waited)
            matching.handlers = handlers
            matching.delay_share = min(share, 1.0)
            blocks.append(matching)
        blocks += seen[position:]
        blocks = [block for block in blocks if block.stack or not block.excused]
        blocks.sort(key=lambda block: block.started)
        return blocks

    def _all_errors(self, exceptions: list[tuple[int, int, int, int]]) -> list[ErrorFigures]:
        """Return the errors of snapshots, and exceptions of handlers that they do not have."""
        errors: list[ErrorFigures] = []
        for fields in self._errors.values():
            error = ErrorFigures("", "", Place())
            fill(error, fields)
            errors.append(error)
        types = {error.type.rpartition(".")[2] for error in errors}
        for kind, code, count, last in exceptions:
            name = self.names.text(kind)
            if name.rpartition(".")[2] not in types:
                errors.append(ErrorFigures(name, "", replace(self.names.place(code)), count, last))
        errors.sort(key=lambda error: -error.count)
        return errors


def _collecting_line(fields: dict[str, Any]) -> CodeFigures:
    line = CodeFigures(0, "gc", Place())
    fill(line, fields, "place", "calls", "busy", "longest")
    return line


def _pauses(lines: list[dict[str, Any]]) -> list[SlowCall]:
    """Return the longest collections, the longest first."""
    pauses = []
    for fields in lines:
        line = _collecting_line(fields)
        slow = fields.get("slow")
        pauses += [
            SlowCall("gc", line.place, integer(each[0]), integer(each[1]))
            for each in (slow if isinstance(slow, list) else ())
            if isinstance(each, (list, tuple)) and len(each) == 2
        ]
    pauses.sort(key=lambda pause: -pause.duration)
    return pauses
