"""The tasks of a loop, as another thread sees them: states, await stacks, awaiting tasks.

Only public interfaces are used: `asyncio.all_tasks`, `Task.get_coro`, what a coroutine awaits.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

from noria.sight.pacer import Pacer
from noria.sight.places import (
    PlaceTuple,
    Suspended,
    await_stack,
    frame_of_thread,
    module_of_frame,
    place_of_callable,
    place_of_code,
)

INNERMOST = 3  # coroutines of a task whose variables may refer to the future that it awaits
MAX_TASKS = 10_000  # with details; the others are only counted


class TaskSnapshot:
    """The tasks of one loop at one moment."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.alive = 0
        # id of an awaited future -> the record of the task that awaits it
        self.awaiting: dict[int, dict[str, Any]] = {}
        # id of a task -> its record, of those that are not done
        self.by_task: dict[int, dict[str, Any]] = {}


def snapshot_tasks(
    loop: asyncio.AbstractEventLoop, thread_ident: int, pacer: Pacer
) -> TaskSnapshot:
    """Take the tasks of *loop*, which may be running in the thread with *thread_ident*."""
    result = TaskSnapshot()
    try:
        alive = asyncio.all_tasks(loop)
    except RuntimeError:  # the set of tasks changed during each of many attempts
        return result
    result.alive = len(alive)
    current = asyncio.current_task(loop)
    main = main_task(thread_ident)
    awaited_by: dict[int, list[int]] = {}
    for number, task in enumerate(alive):
        if number >= MAX_TASKS:
            break
        pacer.pause()
        record, future, awaited_tasks = _record(task, thread_ident if task is current else 0)
        if task is main:
            record["main"] = True
        result.tasks.append(record)
        if record["state"] != "done":
            result.by_task[record["id"]] = record
        if future is not None:
            result.awaiting[id(future)] = record
        for other in awaited_tasks:
            awaited_by.setdefault(id(other), []).append(record["id"])
    for record in result.tasks:
        record["awaited_by"] = awaited_by.get(record["id"], [])
    return result


def _record(
    task: asyncio.Task[Any], running_in: int
) -> tuple[dict[str, Any], Any, list[asyncio.Task[Any]]]:
    coroutine = task.get_coro()
    record: dict[str, Any] = {
        "id": id(task),
        "name": task.get_name(),
        "coroutine": _place_of_coroutine(coroutine),
        "state": "waiting",
        "waiting_at": [],
        "waiting_for": "",
        "awaited_by": [],
    }
    if task.done():
        record["state"] = "done"
        return record, None, []
    frames, awaited = await_stack(coroutine)
    record["waiting_at"] = [
        place_of_code(each.code, each.frame.f_lineno if each.frame is not None else None)
        for each in frames
        if isinstance(each.code, CodeType)
    ]
    if running_in:
        record["state"] = "running"
        record["waiting_at"] = _running_stack(running_in, coroutine) or record["waiting_at"]
        return record, None, []
    is_future = hasattr(awaited, "get_loop")
    if not is_future or awaited.done():
        # Not started yet, or a bare yield (asyncio.sleep(0)), or what it awaited is done.
        record["state"] = "scheduled"
        return record, None, []
    record["waiting_for"] = _waiting_for(frames, awaited)
    # Two references are those of the task and of the iterator; `awaited` here is another.
    if not isinstance(awaited, asyncio.Task):
        kept = sum(
            value is awaited
            for each in frames[-INNERMOST:]
            for value in gc.get_referents(each.coroutine)
        )
        # A future that no variable has (`await asyncio.Future()`) waits for a cancellation.
        record["orphaned"] = kept > 0 and _references([awaited]) <= 3 + kept
    return record, awaited, list(_awaited_tasks(frames, awaited))


def _running_stack(thread_ident: int, coroutine: Any) -> list[PlaceTuple]:
    """Return what the running coroutine of a thread has called, outermost first."""
    places = []
    frame = frame_of_thread(thread_ident)
    code = getattr(coroutine, "cr_code", None)
    while frame is not None:
        places.append(place_of_code(frame.f_code, frame.f_lineno))
        if frame.f_code is code:
            return places[::-1]
        frame = frame.f_back
    return []


def _references(holder: list[Any]) -> int:
    """Count the references to the list's item, except the list's own."""
    return sys.getrefcount(holder[0]) - _OWN_REFERENCES


_OWN_REFERENCES = 0
_OWN_REFERENCES = _references([object()])


def main_task(thread_ident: int) -> Any:
    """Return what run_until_complete waits for in a thread: a task or future, or None."""
    frame = frame_of_thread(thread_ident) if thread_ident else None
    while frame is not None:
        if frame.f_code.co_name == "run_until_complete" and module_of_frame(frame).startswith(
            "asyncio."
        ):
            return frame.f_locals.get("future")
        frame = frame.f_back
    return None


def _place_of_coroutine(coroutine: Any) -> PlaceTuple:
    for name in ("cr_code", "gi_code", "ag_code"):
        code = getattr(coroutine, name, None)
        if isinstance(code, CodeType):
            return place_of_code(code)
    return place_of_callable(coroutine)


def _waiting_for(frames: list[Suspended], future: Any) -> str:
    """Say what a task waits for: "sleep", "Lock", "StreamReader.read", a task's name, …"""
    if isinstance(future, asyncio.Task):
        return future.get_name()
    name = ""
    for _, code, frame in reversed(frames):
        module = module_of_frame(frame)
        if module.partition(".")[0] not in ("asyncio", "noria", ""):
            break
        qualname = str(getattr(code, "co_qualname", ""))
        public = qualname.rpartition(".")[2]
        if not public.startswith("_") or qualname.endswith(".__aexit__"):
            name = qualname
    if name.endswith((".acquire", ".wait", ".__aexit__")):
        return name.rpartition(".")[0]  # Lock, Semaphore, Event, Condition, TaskGroup
    if not name and "Gathering" in type(future).__name__:
        return "gather"
    return name or type(future).__name__


def _awaited_tasks(frames: list[Suspended], future: Any) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks that a task waits for: directly, in a group, by gather or asyncio.wait."""
    if isinstance(future, asyncio.Task):
        yield future
        return
    if type(future) is not asyncio.Future:
        # A gathering future has its children in a list that is no public attribute. The garbage
        # collector visits the dict of attributes, or on some Pythons the attributes themselves.
        for inner in gc.get_referents(future):
            yield from _tasks_in(inner.values() if isinstance(inner, dict) else [inner])
    if not frames or not module_of_frame(frames[-1].frame).startswith("asyncio."):
        return
    # The variables of asyncio's function, without the side effects of frame.f_locals.
    for value in gc.get_referents(frames[-1].coroutine):
        if isinstance(value, asyncio.Task):
            yield value
        elif isinstance(value, (set, list, tuple)):
            yield from _tasks_in([value])
        elif type(value).__name__ == "TaskGroup":
            yield from _tasks_in(vars(value).values())


def _tasks_in(values: Any) -> Iterator[asyncio.Task[Any]]:
    for value in list(values):
        if isinstance(value, (set, list, tuple, frozenset)):
            for item in list(value):
                if isinstance(item, asyncio.Task):
                    yield item
