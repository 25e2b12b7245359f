"""Records what waited for a step (the loop, the ring or a thread), and the loop's longest stall."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from noria.files.engine_base import Engine

TICK_SECONDS = 0.0002
"""Between two ticks. A stall may be reported too short by this time."""


class Ticker:
    """A timer on the loop every TICK_SECONDS. Its delay is how long the loop was blocked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._longest = 0.0
        self._due = time.perf_counter()
        self._handle: asyncio.Handle = loop.call_soon(self._tick)

    def start(self) -> None:
        """Reset. The first tick is due now, so that the current iteration of the loop counts."""
        self._handle.cancel()
        self._longest = 0.0
        self._due = time.perf_counter()
        self._handle = self._loop.call_soon(self._tick)

    async def longest(self) -> float:
        """The longest delay (seconds) of a tick since start()."""
        await asyncio.sleep(2 * TICK_SECONDS)  # the tick after a stall records it
        return self._longest

    def stop(self) -> None:
        self._handle.cancel()

    def _tick(self) -> None:
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._due)
        self._due = now + TICK_SECONDS
        self._handle = self._loop.call_later(TICK_SECONDS, self._tick)


class WaitRecorder:
    """Count an engine's calls that wait for the ring or a thread; the loop itself does the rest."""

    def __init__(self, engine: Engine) -> None:
        self._seen: dict[str, int] = {}
        doors = {"run_in_thread": "threads", "change_in_thread": "threads"}
        if engine.name == "ring":
            doors |= {"await_change": "ring", "read": "ring"}
        for method, who in doors.items():
            setattr(engine, method, self._counted(getattr(engine, method), who))

    def start(self) -> None:
        self._seen.clear()

    @property
    def waited(self) -> str:
        """`loop`, `ring`, `threads`, or "ring, threads"."""
        return ", ".join(sorted(self._seen)) or "loop"

    def _counted(self, method: Callable[..., Any], who: str) -> Callable[..., Any]:
        async def counted(*arguments: Any) -> Any:
            self._seen[who] = self._seen.get(who, 0) + 1
            return await method(*arguments)

        return counted
