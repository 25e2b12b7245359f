"""What is known to be acknowledged, in case that the server forgets it.

Server 2.9 writes the state of a durable consumer in place, without fsync. If it is killed in this
moment, or the power fails, the consumer begins again with the oldest event that the stream has: of
days. So the workers remember how far everything is acknowledged, and store it from time to time.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

from noria.bus.brokers.nats.connection import APIError, Link

# Seconds between two looks at the server's floor, at most, and between two times of storing it.
LOOK_SECONDS = 2.0
STORE_SECONDS = 10.0

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


class AckFloor:
    """All events of one durable consumer up to `sequence` were acknowledged at `time`.

    `time`: of the server, in nanoseconds since 1970. An event that was stored later is not meant:
    it is of another stream, which was made after the first one was removed.
    """

    def __init__(self, stream: str, subject: str):
        self.stream = stream
        self.subject = subject
        self.sequence = 0
        self.time = 0
        self._stored = 0
        self._store_at = 0.0

    def covers(self, sequence: int, stored: int) -> bool:
        """Whether an event is known to be acknowledged."""
        return sequence <= self.sequence and stored <= self.time

    def note(self, info: dict[str, Any]) -> None:
        """Take the floor of a consumer's information; it never sinks."""
        floor = info["ack_floor"]
        if "last_active" in floor:
            self._raise_to(floor["stream_seq"], nanoseconds(floor["last_active"]))

    def _raise_to(self, sequence: int, time: int) -> None:
        if sequence > self.sequence:
            self.sequence = sequence
            self.time = time

    async def load(self, link: Link) -> None:
        """Take the floor that a worker has stored."""
        request = {"last_by_subj": self.subject}
        [found] = await link.api((f"STREAM.MSG.GET.{self.stream}", request))
        if not isinstance(found, APIError):
            document = json.loads(base64.b64decode(found["message"]["data"]))
            self._raise_to(document["sequence"], document["time"])
            self._stored = self.sequence

    async def store(self, link: Link) -> None:
        """Store the floor, if it has risen, and not too often.

        If another worker stores an older one after it, that one is as true.
        """
        now = link.loop.time()
        if self.sequence > self._stored and now >= self._store_at:
            self._store_at = now + STORE_SECONDS
            self._stored = self.sequence
            document = json.dumps({"sequence": self.sequence, "time": self.time})
            await link.exchange([(self.subject, document.encode(), None)])


def nanoseconds(text: str) -> int:
    """Return a time of JetStream (RFC 3339, UTC) in nanoseconds since 1970; 0 if it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        return 0
    seconds = int(datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp())
    return seconds * 10**9 + int((match[2] or "0").ljust(9, "0"))
