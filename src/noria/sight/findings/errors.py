"""Exceptions that no code handled, and tasks that were dropped."""

from __future__ import annotations

from noria.sight.findings.finding import ERROR, Finding
from noria.sight.findings.units import plural
from noria.sight.observation import ErrorFigures, LoopFigures

_KINDS = {
    "task never retrieved": (
        "exception-never-retrieved",
        "a task failed with {type}, and no code looked at its result",
        "Await the task, or gather it, or run it in an asyncio.TaskGroup; at least add a done "
        "callback that calls task.exception().",
    ),
    "future never retrieved": (
        "exception-never-retrieved",
        "a future got {type}, and no code looked at its result",
        "Await the future, or call future.exception() in a done callback; do not set an exception "
        "that no code waits for.",
    ),
    "task destroyed pending": (
        "task-destroyed-pending",
        "a task was garbage-collected while it waited",
        "Keep a reference to each task until it is done (a set with "
        "task.add_done_callback(tasks.discard), or asyncio.TaskGroup); and whatever should resume "
        "it must keep its future.",
    ),
    "callback": (
        "exception-in-callback",
        "a callback raised {type}",
        "Handle the exception in the callback: the loop can only log it.",
    ),
}


def find(loop: LoopFigures) -> list[Finding]:
    """Return a finding for each place at which tasks or callbacks failed unseen."""
    return [
        _finding(loop, error)
        for error in loop.errors
        # On Python 3.11, streams report a handler that is cancelled as a callback's error.
        if error.kind in _KINDS and error.type != "CancelledError"
    ]


def _finding(loop: LoopFigures, error: ErrorFigures) -> Finding:
    kind, title, advice = _KINDS[error.kind]
    said = f"{error.type}: {error.message}" if error.type and error.message else error.message
    evidence = [f"{plural(error.count, 'time')}, last: {said or error.type}"]
    if kind == "task-destroyed-pending":
        evidence.append("it was suspended at the line above, and nothing will resume it")
    return Finding(
        kind=kind,
        title=title.format(type=error.type or "an exception"),
        evidence=evidence,
        place=error.place,
        advice=advice,
        severity=ERROR,
        loop=loop.id,
        data={"type": error.type, "message": error.message, "count": error.count},
    )
