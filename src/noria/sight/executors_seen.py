"""The executors that a loop's jobs were submitted to."""

from __future__ import annotations

import weakref
from concurrent.futures import Executor
from typing import Any


class ExecutorsSeen:
    """The executors of a loop, and the size of their thread pools."""

    def __init__(self) -> None:
        self._executors: weakref.WeakSet[Executor] = weakref.WeakSet()

    def add(self, executor: Executor) -> None:
        """Remember an executor."""
        self._executors.add(executor)

    def figures(self, loop: Any) -> dict[str, int]:
        """Return "workers" and "max_workers", of all pools together; 0 if there is none."""
        executors = set(self._executors)
        default = getattr(loop, "_default_executor", None)
        if default is not None:
            executors.add(default)
        workers = limit = 0
        for executor in executors:
            # Executors have no public figures; another class has perhaps none at all.
            threads = getattr(executor, "_threads", None) or getattr(executor, "_processes", None)
            workers += len(threads) if threads is not None else 0
            limit += getattr(executor, "_max_workers", 0) or 0
        return {"workers": workers, "max_workers": limit}
