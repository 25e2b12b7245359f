"""The lines at which garbage collections began that stopped a loop for a noticeable time."""

from __future__ import annotations

import heapq
import threading
import time
from types import CodeType, FrameType
from typing import Any

from noria.sight.places import place_of_code

MIN_PAUSE = 1_000_000  # ns; shorter ones are only in the records
MAX_LINES = 1000
MAX_SLOW = 50  # pauses of one line of which the time is kept


Times = tuple[int, int]  # CLOCK_MONOTONIC, and the CPU time of the thread that collects, in ns


def times() -> Times:
    """Return both clocks."""
    return time.monotonic_ns(), time.thread_time_ns()


class _Line:
    """The collections that began at one line. Times in ns."""

    __slots__ = ("busy", "calls", "longest", "slow")

    def __init__(self) -> None:
        self.calls = self.busy = self.longest = 0
        self.slow: list[tuple[int, int]] = []  # a heap of (duration, started)

    def add(self, started: int, pause: int) -> None:
        """Count a collection."""
        self.calls += 1
        self.busy += pause
        self.longest = max(self.longest, pause)
        if len(self.slow) < MAX_SLOW:
            heapq.heappush(self.slow, (pause, started))
        else:
            heapq.heappushpop(self.slow, (pause, started))


class CollectionsSeen:
    """Pauses by line. Called by the thread that collects, which has the GIL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: Times = (0, 0)
        self.run = 0  # ns of CPU time of all pauses
        self.longest_run = 0  # ns of CPU time of the longest pause
        self._line: tuple[CodeType, int] | None = None
        self._lines: dict[tuple[CodeType, int], _Line] = {}

    def begin(self, times: Times, frame: FrameType | None) -> None:
        """Store the begin of a collection; *frame* is that of the program's line that caused it."""
        self._began = times
        self._line = (frame.f_code, frame.f_lineno) if frame is not None else None

    def end(self, times: Times) -> None:
        """Add the pause of the collection, which has ended."""
        started = self._began[0]
        if not started:
            return
        pause, ran = times[0] - started, times[1] - self._began[1]
        self.run += ran
        self.longest_run = max(self.longest_run, ran)
        line, self._line = self._line, None
        if line is None or pause < MIN_PAUSE:
            return
        figures = self._lines.get(line)
        if figures is None:
            if len(self._lines) >= MAX_LINES:
                return
            with self._lock:
                figures = self._lines[line] = _Line()
        figures.add(started, pause)

    def records(self) -> list[dict[str, Any]]:
        """Return the lines, with the field names of CodeFigures; "slow": (started, duration)."""
        with self._lock:
            lines = list(self._lines.items())
        return [
            {
                "place": place_of_code(code, line),
                "calls": figures.calls,
                "busy": figures.busy,
                "longest": figures.longest,
                "slow": [(started, pause) for pause, started in list(figures.slow)],
            }
            for (code, line), figures in lines
        ]
