"""Who waited for a step: the engine's calls counted, and the loop's longest stall."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from noria.files.engine_base import Engine

PERIOD = 0.0002
"""Seconds between two ticks. A stall in the middle of a step can be told too short by as much."""


class Ticker:
    """Ticks on the loop each PERIOD; what comes late was held up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._longest = 0.0
        self._due = time.perf_counter()
        self._handle: asyncio.Handle = loop.call_soon(self._tick)

    def start(self) -> None:
        """Forgets what was until now. A tick is due at once, so that no work before the loop's next
        turn stays unseen."""
        self._handle.cancel()
        self._longest = 0.0
        self._due = time.perf_counter()
        self._handle = self._loop.call_soon(self._tick)

    async def longest(self) -> float:
        """Seconds that the latest of all ticks since `start` was late."""
        await asyncio.sleep(2 * PERIOD)  # a stall is seen by the tick that ends it
        return self._longest

    def stop(self) -> None:
        self._handle.cancel()

    def _tick(self) -> None:
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._due)
        self._due = now + PERIOD
        self._handle = self._loop.call_later(PERIOD, self._tick)


class Witness:
    """Counts what an engine does by its ring and in threads; what is neither, the loop did."""

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
