"""The age of files by a wall clock that may be set in between."""

from __future__ import annotations

import math
import time
from collections import deque

MIN_STEP = 60.0  # seconds; smaller adjustments of the clock are ignored


class AgeLimits:
    """The modification times of files that are younger than `max_age` seconds.

    The clock may be set forward (a machine starts in 1970 until it reaches a time server): files
    written just before then have an old time but are not old. It may be set back: files written
    before then have a time in the future and would never become old. Both are detected by
    CLOCK_BOOTTIME, clock_gettime(2), which cannot be set. Until this process has run for `max_age`
    seconds, no time is too far in the future. Call `limits` regularly.
    """

    def __init__(self, max_age: float) -> None:
        self.max_age = max_age
        self._wall, self._boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        # From this time on, a file with a time in the future is old.
        self._future_is_old = self._boot + max_age
        self._forward: deque[tuple[float, float]] = deque()  # (time, seconds) of steps forward

    def limits(self) -> tuple[float, float]:
        """The earliest and the latest modification time that is not old, since the epoch."""
        wall, boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        step = (wall - self._wall) - (boot - self._boot)
        self._wall, self._boot = wall, boot
        if step > MIN_STEP:
            self._forward.append((boot, step))
        elif step < -MIN_STEP:
            self._future_is_old = boot + self.max_age
        while self._forward and boot - self._forward[0][0] > self.max_age:
            self._forward.popleft()
        earliest = wall - self.max_age - sum(size for _, size in self._forward)
        return earliest, wall + self.max_age if boot >= self._future_is_old else math.inf
