"""The table of tasks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from noria.sight.findings.places import innermost
from noria.sight.observation import LoopFigures, Place, TaskFigures
from noria.sight.top import units
from noria.sight.top.cells import busy_cell, duration_cell, number_cell
from noria.sight.top.rates import LoopRates, TaskRates, task_key
from noria.sight.top.tables import ACCENT, BAD, DIM, GOOD, PLAIN, WARN, Cell, Column, Table

DEFAULT_NAME = re.compile(r"Task-\d+")  # as asyncio names a task without a name
SCHEDULED_WARN = 0.25
STATE_ORDER = {"running": 3, "scheduled": 2, "waiting": 1, "done": 0}


@dataclass(slots=True)
class TaskItem:
    """A task, and what it did in the last interval."""

    task: TaskFigures
    rates: TaskRates
    now: int

    @property
    def key(self) -> tuple[int, int]:
        """What identifies the task in all observations."""
        return task_key(self.task)

    @property
    def label(self) -> str:
        """Its name; after asyncio's default name also its coroutine."""
        task = self.task
        if not task.name or DEFAULT_NAME.fullmatch(task.name):
            return units.clean(f"{task.name or hex(task.id)} {task.coroutine.function}".rstrip())
        return units.clean(task.name)

    @property
    def place(self) -> Place:
        """The innermost frame of the program in which it is suspended, or its coroutine."""
        return innermost(self.task.waiting_at) or self.task.coroutine

    @property
    def waits(self) -> int:
        """How long it has been waiting now, in ns."""
        task = self.task
        since = task.waiting_since or (task.last_step if task.state == "waiting" else 0)
        return max(self.now - since, 0) if since else 0

    @property
    def age(self) -> int:
        """Time between its creation and its end or now, in ns; 0 if unknown."""
        return max((self.task.ended or self.now) - self.task.created, 0) if self.task.created else 0

    @property
    def idle(self) -> int:
        """Time in which it was neither scheduled nor running, in ns."""
        return max(self.age - self.task.busy - self.task.scheduled, 0)


def task_items(loop: LoopFigures, rates: LoopRates, now: int, ended: bool) -> list[TaskItem]:
    """Return the tasks of a loop; with *ended* also those that are done."""
    none = TaskRates()
    return [
        TaskItem(task, rates.tasks.get(task_key(task), none), now)
        for task in loop.tasks
        if ended or task.state != "done"
    ]


def state_cell(item: TaskItem) -> Cell:
    """Return the state of a task and its style."""
    if item.task.orphaned:
        return "orphaned", BAD
    styles = {"running": GOOD, "scheduled": ACCENT, "done": DIM}
    return item.task.state, styles.get(item.task.state, PLAIN)


def _scheduled_share(item: TaskItem) -> Cell:
    share = item.rates.scheduled
    return units.share(min(share, 1.0)), WARN if share >= SCHEDULED_WARN else PLAIN


def _where(item: TaskItem) -> Cell:
    return units.line_and_function(item.place), PLAIN


def _text(item: TaskItem) -> str:
    task = item.task
    places = " ".join(str(place) for place in (*task.waiting_at, task.coroutine))
    return f"{item.label} {item.task.state} {places} {task.waiting_for}"


def task_table() -> Table[TaskItem]:
    """Return the table, sorted by the time that tasks were busy in the last interval."""
    return Table(
        [
            Column(
                "task",
                "task",
                20,
                lambda item: (item.label, PLAIN),
                lambda item: item.label,
                flexible=3,
                right=False,
                explanation="name, and the coroutine of an unnamed task",
            ),
            Column(
                "state",
                "state",
                9,
                state_cell,
                lambda item: STATE_ORDER.get(item.task.state, 0),
                right=False,
                explanation="running, scheduled, waiting, done, or orphaned: nothing can resume it",
            ),
            Column(
                "busy%",
                "busy%",
                6,
                lambda item: busy_cell(item.rates.busy),
                lambda item: item.rates.busy,
                explanation="share of the last interval in its steps",
            ),
            Column(
                "sched%",
                "sched%",
                6,
                _scheduled_share,
                lambda item: item.rates.scheduled,
                priority=5,
                explanation="share of the last interval between wake-up and step",
            ),
            Column(
                "waits",
                "waits",
                6,
                lambda item: duration_cell(item.waits),
                lambda item: item.waits,
                priority=2,
                explanation="how long it has been waiting now",
            ),
            Column(
                "busy",
                "busy",
                6,
                lambda item: duration_cell(item.task.busy),
                lambda item: item.task.busy,
                priority=7,
                explanation="time in its steps",
            ),
            Column(
                "sched",
                "sched",
                6,
                lambda item: duration_cell(item.task.scheduled),
                lambda item: item.task.scheduled,
                priority=8,
                explanation="time between wake-ups and steps",
            ),
            Column(
                "idle",
                "idle",
                6,
                lambda item: duration_cell(item.idle),
                lambda item: item.idle,
                priority=9,
                explanation="the rest of its time",
            ),
            Column(
                "steps",
                "steps",
                7,
                lambda item: (units.number(item.task.steps), PLAIN),
                lambda item: item.task.steps,
                priority=4,
                explanation="steps so far",
            ),
            Column(
                "steps/s",
                "steps/s",
                7,
                lambda item: number_cell(item.rates.steps),
                lambda item: item.rates.steps,
                priority=6,
                explanation="steps each second",
            ),
            Column(
                "longest",
                "longest",
                7,
                lambda item: duration_cell(item.task.longest_step),
                lambda item: item.task.longest_step,
                priority=10,
                explanation="its longest step",
            ),
            Column(
                "self",
                "self",
                6,
                lambda item: number_cell(item.task.self_wakes),
                lambda item: item.task.self_wakes,
                priority=12,
                explanation="steps that its own step before had queued, as sleep(0) does",
            ),
            Column(
                "age",
                "age",
                6,
                lambda item: duration_cell(item.age),
                lambda item: item.age,
                priority=11,
                explanation="time since its creation",
            ),
            Column(
                "for",
                "waits for",
                12,
                lambda item: (units.clean(item.task.waiting_for), DIM),
                lambda item: item.task.waiting_for,
                priority=8,
                flexible=1,
                right=False,
                explanation="sleep, a lock, a future, another task",
            ),
            Column(
                "where",
                "where",
                18,
                _where,
                lambda item: units.line_and_function(item.place),
                priority=3,
                flexible=2,
                right=False,
                explanation="the program's innermost frame in which it is suspended",
            ),
        ],
        "busy%",
        _text,
    )
