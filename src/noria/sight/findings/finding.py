"""What a finding is, and the kinds of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from noria.sight.observation import Place

ERROR = "error"
WARNING = "warning"

# Each kind of finding, and what it means.
KINDS = {
    "loop-blocked": "a handler kept the loop from everything else",
    "task-never-yields": "a task computes and awaits nothing that suspends it",
    "task-starved": "tasks wait while other tasks take turns with themselves",
    "task-destroyed-pending": "a task was garbage-collected before it ended",
    "exception-never-retrieved": "a task failed and no code looked at its exception",
    "exception-in-callback": "a callback or protocol raised an exception",
    "task-waits-long": "a task waits for what will not come, or for a lock that is held long",
    "self-wake-storm": "a task polls: it wakes itself again and again",
    "timers-late": "timers run late because the queue is long",
    "timer-storm": "timers take a large part of the loop",
    "reader-paused": "reading is paused while data waits in the kernel",
    "unread-data": "a connection has received data that no code reads",
    "send-buffer-growing": "the program writes faster than the peer reads, without waiting",
    "slow-client": "the peer does not read, and the program waits for it",
    "connection-leak": "connections are opened and never closed",
    "executor-full": "jobs wait for a free worker of the executor",
    "gc-pauses": "garbage collections stop the loop",
    "many-system-calls": "a handler sends little data with each of many system calls",
}


@dataclass(slots=True)
class Finding:
    """A fault in the program, with the evidence for it and what to do."""

    kind: str  # a key of KINDS
    title: str
    evidence: list[str]  # sentences with figures; the first is the strongest
    place: Place | None
    advice: str
    severity: str = WARNING  # ERROR or WARNING
    loop: int = 0  # LoopFigures.id
    data: dict[str, Any] = field(default_factory=dict)  # the figures; durations in ns

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as an object of JSON."""
        return asdict(self)
