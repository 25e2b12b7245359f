"""Delays between attempts: exponential, with full jitter.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random

# Of retries of a handler, in seconds.
RETRY_BASE = 0.5
RETRY_CAP = 300.0
# Of calls of a broker that cannot be reached, in seconds.
RECONNECT_BASE = 0.1
RECONNECT_CAP = 2.0


def delay(attempt: int, base: float = RETRY_BASE, cap: float = RETRY_CAP) -> float:
    """Return the seconds to wait after the given attempt, the first being 1."""
    return random.uniform(0.0, min(cap, base * 2.0 ** min(attempt - 1, 60)))


def reconnect_delay(attempt: int) -> float:
    """Return the seconds until the broker is tried again, at least half of the longest."""
    longest = min(RECONNECT_CAP, RECONNECT_BASE * 2.0 ** min(attempt - 1, 60))
    return random.uniform(longest / 2, longest)
