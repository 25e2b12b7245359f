"""What a peer is: a library that publishes and handles events through a broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

TYPE = "bench.event"
# Events in flight: handlers of the worker, and producers of the publisher.
CONCURRENCY = 100
PAYLOAD_BYTES = 1024

Payload = dict[str, Any]
Received = Callable[[Payload], None]


class Peer(Protocol):
    """A publisher, and a worker if `subscribe` was called before `start`."""

    def subscribe(self, received: Received) -> None:
        """Call a function with the payload of each event, in an asynchronous handler."""

    async def start(self) -> None:
        """Connect."""

    def emit(self, payload: Payload) -> Awaitable[object]:
        """Publish an event; what is returned ends when the broker has it."""

    def emit_all(self, payloads: Sequence[Payload]) -> Awaitable[object]:
        """Publish events together, in the best way that the library has."""

    async def stop(self) -> None:
        """Acknowledge what was handled, and disconnect."""


def payload(number: int, sent: float = 0.0) -> Payload:
    """Return a payload of PAYLOAD_BYTES bytes of JSON, and a little more for digits."""
    return {"number": number, "sent": sent, "text": _TEXT}


_TEXT = "x" * (PAYLOAD_BYTES - len('{"number":0,"sent":0.0,"text":""}'))
