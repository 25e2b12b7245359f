"""Pauses in the work of the agent's thread, so that the loop does not wait for the GIL."""

from __future__ import annotations

import time

WORK_NS = 200_000  # of work between two pauses
PAUSE = 20e-6  # seconds; the kernel adds about 50 µs


class Pacer:
    """Sleeps shortly after each WORK_NS of work: another thread takes the GIL then.

    Without pauses, a thread that waits for the GIL gets it only after the switch interval, 5 ms.
    """

    def __init__(self) -> None:
        self.resumed = time.perf_counter_ns()
        self.worked = 0  # ns of work before the last pause

    def pause(self) -> None:
        """Sleep if the thread has worked for long enough."""
        now = time.perf_counter_ns()
        if now - self.resumed >= WORK_NS:
            self.worked += now - self.resumed
            time.sleep(PAUSE)
            self.resumed = time.perf_counter_ns()

    def total(self) -> int:
        """Return the ns of work so far."""
        return self.worked + time.perf_counter_ns() - self.resumed
