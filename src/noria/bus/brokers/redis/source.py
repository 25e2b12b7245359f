"""A stream from which a member of a group takes events."""

from __future__ import annotations

from collections import deque
from typing import Any

from noria.bus.contract import Delivery


class Source:
    """A stream from which a consumer takes events.

    `partition`: its number, or None for events without a key.
    """

    __slots__ = (
        "claims",
        "leaving",
        "listed",
        "listed_idle",
        "lost",
        "name",
        "partition",
        "recover",
        "resume_at",
    )

    def __init__(self, name: str, partition: int | None = None):
        self.name = name.encode()
        self.partition = partition
        # By entry id, what this consumer has claimed.
        self.claims: dict[bytes, Delivery] = {}
        # Entries that are pending and not claimed by a living consumer: id, deliveries so far.
        self.listed: deque[tuple[bytes, int]] = deque()
        self.listed_idle = 0
        # Whether pending entries must be listed before new ones are taken.
        self.recover = partition is not None
        self.leaving = False
        self.lost = False
        # When it may be read again, by the clock of the loop.
        self.resume_at = 0.0

    def add_listed(self, rows: list[list[Any]], idle: int) -> None:
        """Note pending entries that are to be claimed: rows of XPENDING.

        `idle`: the milliseconds for which they must be idle when they are claimed.
        """
        self.listed = deque((row[0], row[3]) for row in rows if row[0] not in self.claims)
        self.listed_idle = idle
