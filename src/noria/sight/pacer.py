"""Pauses in the work of the agent's thread, so that the loop does not wait for the GIL."""

from __future__ import annotations

import time

WORK_NS = 500_000  # of work between two pauses
PAUSE = 20e-6  # seconds; the kernel adds about 50 µs


class Pacer:
    """Sleeps shortly after each WORK_NS of work: another thread takes the GIL then.

    Without pauses, a thread that waits for the GIL gets it only after the switch interval, 5 ms.
    """

    def __init__(self) -> None:
        self._resumed = time.perf_counter_ns()
        self._began = time.thread_time_ns()

    def pause(self) -> None:
        """Sleep if the thread has worked for long enough."""
        if time.perf_counter_ns() - self._resumed >= WORK_NS:
            time.sleep(PAUSE)
            self._resumed = time.perf_counter_ns()

    def total(self) -> int:
        """Return the ns of CPU time that the thread has used since the pacer was made."""
        return time.thread_time_ns() - self._began
