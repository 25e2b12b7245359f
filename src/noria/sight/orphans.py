"""Tasks that nothing can resume: they await a future that only they refer to.

A future is resolved by code that has it. If all references to it are the waiting task's own, no
code has: the task waits for ever. The number of references tells this without a search of the heap.
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any


def is_orphaned(task: Any, future: weakref.ref[Any]) -> bool:
    """Whether the coroutines of *task* have the only references to the future that it awaits.

    A task that awaits a future which it never stored (`await asyncio.Future()`) does so to wait
    for its cancellation, and is no orphan. The caller must hold no reference to the future.
    """
    address = id(future())
    kept = 0  # in local variables
    awaitable = task.get_coro()
    while (following := getattr(awaitable, "cr_await", None)) is not None:
        kept += _references(awaitable, address)
        awaitable = following
    if not kept:
        return False
    own = kept + _references(task, address) + _references(awaitable, address)
    del awaitable, following
    # One more is that of the call.
    return sys.getrefcount(future()) - 1 <= own


def _references(holder: Any, address: int) -> int:
    return sum(id(each) == address for each in gc.get_referents(holder))
