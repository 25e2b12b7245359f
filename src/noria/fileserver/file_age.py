"""How old a file is, by a wall clock that may be set meanwhile."""

from __future__ import annotations

import math
import time
from collections import deque

STEP = 60.0  # seconds that the clock must be set by to count


class Ages:
    """Which modification times are `life` seconds old or more: asked from time to time.

    The clock may be set forward (a machine starts in 1970, until it reaches a time server): then
    files of just before are not old. It may be set back: then files of before are of the future,
    and would never become old. Both are known from CLOCK_BOOTTIME, clock_gettime(2), which nobody
    sets. Before this process has run for `life` seconds, no time is too far in the future.
    """

    def __init__(self, life: float) -> None:
        self.life = life
        self._wall, self._boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        self._sure = self._boot + life  # from then on nothing of the future is young
        self._forward: deque[tuple[float, float]] = deque()  # steps: when, and by how much

    def limits(self) -> tuple[float, float]:
        """The earliest and the latest modification time that is not old, since the epoch."""
        wall, boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        step = (wall - self._wall) - (boot - self._boot)
        self._wall, self._boot = wall, boot
        if step > STEP:
            self._forward.append((boot, step))
        elif step < -STEP:
            self._sure = boot + self.life
        while self._forward and boot - self._forward[0][0] > self.life:
            self._forward.popleft()
        earliest = wall - self.life - sum(size for _, size in self._forward)
        return earliest, wall + self.life if boot >= self._sure else math.inf
