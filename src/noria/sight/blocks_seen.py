"""The blocks that the watchdog has seen: turns of a loop that were longer than the limit."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

MAX_BLOCKS = 1000  # of which the latest are kept


class BlocksSeen:
    """A list of blocks in the order of their changes. Any thread may call its methods.

    A block is a dict with the field names of Block, "loop" (its id) and "number", which grows with
    each change: the same block comes again when it has ended. (`loop`, `started`) identifies it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[dict[str, Any]] = deque(maxlen=MAX_BLOCKS)
        self._number = 0

    def add(self, block: dict[str, Any]) -> None:
        """Add a block, or replace what is known of it."""
        with self._lock:
            self._number += 1
            block = {**block, "number": self._number}
            for known in self._blocks:
                if known["loop"] == block["loop"] and known["started"] == block["started"]:
                    self._blocks.remove(known)
                    break
            self._blocks.append(block)

    @property
    def latest(self) -> int:
        """The number of the latest change."""
        return self._number

    def after(self, number: int = 0) -> list[dict[str, Any]]:
        """Return the blocks whose number is greater."""
        with self._lock:
            return [block for block in self._blocks if block["number"] > number]
