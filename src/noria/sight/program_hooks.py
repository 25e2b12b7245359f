"""Hooks that record jobs of executors, garbage collections, uncaught exceptions and closed loops.

The methods of noria's loop are replaced while an agent is active, so that they cost nothing
otherwise. The program's exception handlers see what they would see without the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
from concurrent.futures import ThreadPoolExecutor
from types import CodeType
from typing import TYPE_CHECKING, Any

from noria.sight import record_kinds
from noria.sight.collections_seen import times
from noria.sight.places import (
    code_of,
    innermost_user_frame,
    is_user_code,
    place_of_callable,
    place_of_code,
    place_of_exception,
)
from noria.sight.replacements import Replacements

if TYPE_CHECKING:
    from noria.sight.agent import Agent

_agent: Agent | None = None
_jobs = itertools.count(1)
_replacements = Replacements()


def install(agent: Agent) -> None:
    """Replace the loop's methods, and have the garbage collector report collections."""
    global _agent
    from noria.aio.loop import EventLoop

    _agent = agent
    _replace(EventLoop, "run_in_executor", _run_in_executor)
    _replace(EventLoop, "call_exception_handler", _call_exception_handler)
    _replacements.replace(EventLoop, "close", _close(EventLoop.close))
    gc.callbacks.append(_collection)


def remove() -> None:
    """Undo `install`."""
    global _agent
    _agent = None
    _replacements.undo()
    with contextlib.suppress(ValueError):
        gc.callbacks.remove(_collection)


def _replace(cls: type, name: str, make: Any) -> None:
    if name not in vars(cls):  # else the program has replaced it
        _replacements.replace(cls, name, make(getattr(cls, name)))


def _close(inherited: Any) -> Any:
    @functools.wraps(inherited)
    def close(self: Any) -> None:
        agent = _agent
        watched = agent.watched(self) if agent is not None else None
        if watched is not None and not self.is_running():
            with contextlib.suppress(RuntimeError):  # another thread creates tasks all the time
                watched.note_close(asyncio.all_tasks(self))
        inherited(self)

    return close


# Executors.


def _run_in_executor(inherited: Any) -> Any:
    @functools.wraps(inherited)
    def run_in_executor(self: Any, executor: Any, func: Any, *args: Any) -> Any:
        agent = _agent
        watched = agent.watched(self) if agent is not None else None
        if watched is None or not callable(func) or inspect.iscoroutinefunction(func):
            return inherited(self, executor, func, *args)
        recorder = watched.recorder
        number = next(_jobs)
        code = recorder.intern(code_of(func))
        recorder.record(record_kinds.JOB_QUEUED, number, code)
        if executor is None or isinstance(executor, ThreadPoolExecutor):
            if executor is not None:
                watched.executors.add(executor)
            return inherited(self, executor, _Job(recorder, number, code, func), *args)
        # The function may have to be pickled. When it begins to run is not known.
        watched.executors.add(executor)
        future = inherited(self, executor, func, *args)
        recorder.record(record_kinds.JOB_BEGIN, number, code)
        future.add_done_callback(lambda future: _job_done(recorder, number, future))
        return future

    return run_in_executor


def _job_done(recorder: Any, number: int, future: asyncio.Future[Any]) -> None:
    failed = future.cancelled() or future.exception() is not None
    recorder.record(record_kinds.JOB_END, number, failed)


class _Job:
    """A job for a thread, which records when it begins and ends."""

    __slots__ = ("code", "function", "number", "recorder")

    def __init__(self, recorder: Any, number: int, code: int, function: Any) -> None:
        self.recorder = recorder
        self.number = number
        self.code = code
        self.function = function

    def __call__(self, *args: Any) -> Any:
        self.recorder.record(record_kinds.JOB_BEGIN, self.number, self.code)
        failed = True
        try:
            result = self.function(*args)
            failed = False
            return result
        finally:
            self.recorder.record(record_kinds.JOB_END, self.number, failed)


# Exceptions.

_KINDS = {
    "Task was destroyed but it is pending!": "task destroyed pending",
    "Task exception was never retrieved": "task never retrieved",
    "Future exception was never retrieved": "future never retrieved",
}


def _call_exception_handler(inherited: Any) -> Any:
    @functools.wraps(inherited)
    def call_exception_handler(self: Any, context: Any) -> Any:
        agent = _agent
        watched = agent.watched(self) if agent is not None else None
        if watched is not None and isinstance(context, dict):
            with contextlib.suppress(Exception):
                _record_error(watched, context)
        return inherited(self, context)

    return call_exception_handler


def _record_error(watched: Any, context: dict[str, Any]) -> None:
    message = str(context.get("message", ""))
    error = context.get("exception")
    task = context.get("task") or context.get("future")
    kind = _KINDS.get(message, "callback")
    if kind == "task destroyed pending":
        place = _last_place_of_task(watched, task)
    elif error is not None and error.__traceback__ is not None:
        place = place_of_exception(error)
    elif task is not None:
        place = _place_of_task(task)
    else:
        place = place_of_callable(getattr(context.get("handle"), "_callback", None))
    type_name = type(error).__qualname__ if error is not None else ""
    text = str(error) if error is not None else message
    watched.errors.add(kind, type_name, text, place)
    recorder = watched.recorder
    number = recorder.intern(type(error)) if error is not None else 0
    recorder.record(record_kinds.EXCEPTION, number, id(task) if task is not None else 0)


def _last_place_of_task(watched: Any, task: Any) -> Any:
    """Return where a task waited. The collector may have cleared its coroutine before it."""
    agent = _agent
    place = _place_of_task(task)
    if agent is not None:
        # A collection removes a task from asyncio's set before the task is told of its end: the
        # last snapshot may have been taken between the two.
        for loop in itertools.chain(*(each["loops"] for each in agent.last_snapshots)):
            for record in loop["tasks"] if loop["id"] == watched.id else ():
                if record["id"] == id(task) and record["coroutine"][:2] == place[:2]:
                    inside = [each for each in record["waiting_at"] if is_user_code(each[1])]
                    return (inside or [place])[-1]
    return place


def _place_of_task(task: Any) -> Any:
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    for frame_name, code_name in (("cr_frame", "cr_code"), ("gi_frame", "gi_code")):
        code = getattr(coroutine, code_name, None)
        if isinstance(code, CodeType):
            frame = getattr(coroutine, frame_name, None)
            return place_of_code(code, frame.f_lineno if frame is not None else None)
    return ("", "", 0, "")


# Garbage collections.


def _collection(phase: str, info: dict[str, int]) -> None:
    agent = _agent
    if agent is None:
        return
    loops = [watched for watched in agent.loops if not watched.released]
    if phase == "start":
        began = times()
        for watched in loops:
            watched.recorder.record(record_kinds.GC_BEGIN, info["generation"], 0)
        frame = innermost_user_frame(inspect.currentframe())
        for watched in loops:
            watched.collections.begin(began, frame)
    else:
        for watched in loops:
            watched.recorder.record(
                record_kinds.GC_END, info.get("collected", 0), info.get("uncollectable", 0)
            )
        ended = times()
        for watched in loops:
            watched.collections.end(ended)
