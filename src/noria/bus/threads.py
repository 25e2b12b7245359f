"""The threads in which handlers run that are no coroutine functions."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

# The most threads of one handler, however large its concurrency is.
MAX_THREADS = 500


class HandlerExit(Exception):
    """A handler raised SystemExit or KeyboardInterrupt, which is the `__cause__`.

    A task that raises one of these two ends the event loop.
    """


class HandlerThreads:
    """Runs the calls of one handler, at most `count` and MAX_THREADS at a time.

    They are not those of the loop's executor, which are few, and which resolve host names: a
    connection to the broker would wait for a handler.
    """

    def __init__(self, count: int) -> None:
        # It starts a thread when a call finds none that is free.
        self._executor = ThreadPoolExecutor(min(count, MAX_THREADS), "noria-bus")
        # Calls that have not ended, those included whose task was cancelled.
        self.running: set[Future[object]] = set()

    async def run(self, function: Callable[..., object], *arguments: Any) -> object:
        """Return what the function returns in a thread, with the present context."""
        context = contextvars.copy_context()
        call = self._executor.submit(context.run, _call, function, *arguments)
        self.running.add(call)
        call.add_done_callback(self.running.discard)
        return await asyncio.wrap_future(call)

    def close(self) -> None:
        """End the threads, without waiting for those that are in a call; no call follows."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if not self.running:
            self._executor.shutdown()


def _call(function: Callable[..., object], *arguments: Any) -> object:
    try:
        return function(*arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        raise HandlerExit from error
    except StopIteration as error:
        # No future takes it; before Python 3.12 the one of asyncio would never be done.
        raise RuntimeError("the handler raised StopIteration") from error
