"""Waiting for a condition in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 20.0  # seconds


def eventually(condition: Callable[[], T], seconds: float = DEADLINE) -> T:
    """Call a function until its result is true; return it. Fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return result
