"""The lines at which garbage collections began that stopped a loop for a noticeable time."""

from __future__ import annotations

import threading
import time
from types import CodeType, FrameType
from typing import Any

from noria.sight.places import place_of_code

MIN_PAUSE = 1_000_000  # ns; shorter ones are only in the records
MAX_LINES = 1000


class CollectionsSeen:
    """Pauses by line. Called by the thread that collects, which has the GIL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = 0
        self._line: tuple[CodeType, int] | None = None
        self._lines: dict[tuple[CodeType, int], list[int]] = {}

    def begin(self, frame: FrameType | None) -> None:
        """Store the begin of a collection; *frame* is that of the program's line that caused it."""
        self._began = time.monotonic_ns()
        self._line = (frame.f_code, frame.f_lineno) if frame is not None else None

    def end(self) -> None:
        """Add the pause of the collection, which has ended."""
        pause = time.monotonic_ns() - self._began
        line, self._line = self._line, None
        if line is None or pause < MIN_PAUSE:
            return
        figures = self._lines.get(line)
        if figures is None:
            if len(self._lines) >= MAX_LINES:
                return
            figures = [0, 0, 0]
            with self._lock:
                self._lines[line] = figures
        figures[0] += 1
        figures[1] += pause
        figures[2] = max(figures[2], pause)

    def records(self) -> list[dict[str, Any]]:
        """Return the lines, with the field names of CodeFigures."""
        with self._lock:
            lines = list(self._lines.items())
        return [
            {
                "place": place_of_code(code, line),
                "calls": calls,
                "busy": busy,
                "longest": longest,
            }
            for (code, line), (calls, busy, longest) in lines
        ]
