"""Tasks that wait for what will not come."""

from __future__ import annotations

from noria.sight.findings import places
from noria.sight.findings.finding import ERROR, Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural
from noria.sight.observation import LoopFigures, Place, TaskFigures


def find(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    """Return task-waits-long for orphaned tasks and for locks that are held long, by line."""
    lost: dict[tuple[str, str, int], list[TaskFigures]] = {}
    locked: dict[tuple[str, str, int], list[TaskFigures]] = {}
    for task in loop.tasks:
        if task.main or not task.waiting_since:
            continue
        waited = _waited(loop, task)
        key = places.key(_place(task))
        if task.orphaned and waited >= thresholds.orphaned * 1e9:
            lost.setdefault(key, []).append(task)
        elif task.waiting_for == "Lock" and waited >= thresholds.lock_wait * 1e9:
            locked.setdefault(key, []).append(task)
    return [_lost(loop, tasks) for tasks in lost.values()] + [
        _locked(loop, tasks) for tasks in locked.values()
    ]


def _place(task: TaskFigures) -> Place:
    return places.innermost(task.waiting_at) or task.coroutine


def _waited(loop: LoopFigures, task: TaskFigures) -> int:
    return (task.ended or loop.end) - task.waiting_since


def _lost(loop: LoopFigures, tasks: list[TaskFigures]) -> Finding:
    longest = max(_waited(loop, task) for task in tasks)
    first = tasks[0]
    return Finding(
        kind="task-waits-long",
        title=f"{plural(len(tasks), 'task')} of {first.coroutine.function} can never be resumed",
        evidence=[
            f"{first.name or 'the task'} has waited {duration(longest)} for a future that "
            "nothing else refers to: no code can set its result",
        ],
        place=_place(first),
        advice="Whatever resolves the future has lost it: keep it where the answer arrives, "
        "resolve or cancel it on every path (errors too), and wait with asyncio.timeout().",
        severity=ERROR,
        loop=loop.id,
        data={"tasks": len(tasks), "waited": longest, "orphaned": True},
    )


def _locked(loop: LoopFigures, tasks: list[TaskFigures]) -> Finding:
    longest = max(_waited(loop, task) for task in tasks)
    first = tasks[0]
    return Finding(
        kind="task-waits-long",
        title=f"{plural(len(tasks), 'task')} of {first.coroutine.function} "
        f"{'waits' if len(tasks) == 1 else 'wait'} for a lock",
        evidence=[f"{first.name or 'a task'} has waited {duration(longest)} for it"],
        place=_place(first),
        advice="Hold a lock only for short work, never while waiting for the network; always "
        "release it with `async with`; look for two locks taken in different orders.",
        loop=loop.id,
        data={"tasks": len(tasks), "waited": longest, "orphaned": False},
    )
