"""Which task waits for a connection: by the futures and tasks that its protocol refers to.

A library's protocol has futures, events and queues of its own, so its attributes are searched for
a future that a task awaits: `protocol._waiter`, or `protocol._reader.queue._waiter`.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, deque
from contextvars import Context
from types import (
    BuiltinFunctionType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any

from noria.sight.snapshot_tasks import TaskSnapshot

MAX_SEARCHED = 500  # protocols in one snapshot
MAX_DEPTH = 5
MAX_OBJECTS = 200  # that are searched for one protocol
MAX_ITEMS = 64  # of a container
_CONTAINERS: tuple[Any, ...] = (list, tuple, dict, set, frozenset, deque)
_NOT_SEARCHED = (
    type,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    ModuleType,
    CodeType,
    FrameType,
    CoroutineType,
    Context,
    asyncio.AbstractEventLoop,
    asyncio.BaseTransport,
)

Record = dict[str, Any]


class ConnectionUsers:
    """Finds the tasks that wait for the connections of a snapshot.

    Args:
        tasks: the snapshot of the tasks, taken just before.
    """

    def __init__(self, tasks: TaskSnapshot) -> None:
        self._tasks = tasks
        self._searched = 0
        self._found: list[tuple[Record, Record]] = []

    def search(self, protocol: Any, connection: Record) -> bool:
        """Search a protocol. False if too many have been searched: whether a task has it is
        unknown."""
        if self._searched >= MAX_SEARCHED:
            return False
        self._searched += 1
        task = self._task_of(protocol)
        if task is not None:
            self._found.append((connection, task))
        return True

    def found(self) -> list[tuple[Record, Record]]:
        """Return the records of connections, each with that of its task."""
        # What several protocols refer to belongs to none of them.
        count = Counter(task["id"] for _, task in self._found)
        return [each for each in self._found if count[each[1]["id"]] == 1]

    def _task_of(self, protocol: Any) -> Record | None:
        seen = {id(protocol)}
        level = [protocol]
        for _ in range(MAX_DEPTH):
            following = []
            for each in level:
                for inner in gc.get_referents(each):
                    # isinstance would ask a proxy or a lazy object, which is the program's code.
                    if issubclass(type(inner), asyncio.Future):
                        number = id(inner)
                        task = self._tasks.awaiting.get(number) or self._tasks.by_task.get(number)
                        if task is not None:
                            return task
                    elif id(inner) not in seen and _is_searched(inner):
                        seen.add(id(inner))
                        following.append(inner)
                        if len(seen) > MAX_OBJECTS:
                            return None
            level = following
        return None


def _is_searched(value: Any) -> bool:
    cls = type(value)
    if not gc.is_tracked(value) or issubclass(cls, _NOT_SEARCHED):
        return False
    for container in _CONTAINERS:
        if issubclass(cls, container):
            return bool(container.__len__(value) <= MAX_ITEMS)
    return True
