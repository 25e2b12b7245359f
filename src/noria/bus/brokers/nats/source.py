"""The pulls of one JetStream consumer, on one link.

A pull asks for a number of messages and waits in the server until they are there, or until it
expires. `credit` is what has been asked for and has not come.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from noria.bus.brokers.nats.connection import APIError, Link
from noria.errors import BrokerUnavailable

# Seconds for which a pull waits in the server, and for which a lost pull can delay events.
PULL_SECONDS = 10.0
# Seconds after which a pull of which nothing was heard is taken for lost.
PULL_GRACE_SECONDS = 3.0

_numbers = itertools.count(1)

# Called with the body and the reply subject of a message.
Deliver = Callable[[bytes, str], None]


class Source:
    """Pulls from a JetStream consumer and passes what comes to `deliver`.

    `fail` is called with an exception when the server says that the consumer cannot be pulled from,
    `ended` when the last pull has expired.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        consumer: str,
        deliver: Deliver,
        fail: Callable[[BrokerUnavailable], None],
        ended: Callable[[], None],
        *,
        expires: float = PULL_SECONDS,
    ):
        self.link = link
        self.deliver = deliver
        self.fail = fail
        self.ended = ended
        self.expires = expires
        self.credit = 0
        # When the last pull is over, by the clock of the loop.
        self.pull_ends = 0.0
        self.inbox = f"{link.inbox}-{next(_numbers)}"
        self._info = f"CONSUMER.INFO.{stream}.{consumer}"
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._subscription: Any = None

    async def open(self) -> None:
        """Listen for messages."""
        self._subscription = await self.link.subscribe(
            self.inbox, self._received, self._received_directly
        )

    async def pull(self, count: int, *, wait: bool = True) -> None:
        """Ask for `count` messages more; without `wait`, for those that are there."""
        request: dict[str, Any] = {"batch": count}
        if wait:
            request["expires"] = int(self.expires * 1e9)
        else:
            request["no_wait"] = True
        self.credit += count
        self.pull_ends = self.link.loop.time() + self.expires + PULL_GRACE_SECONDS
        await self.link.send([(self._subject, json.dumps(request).encode(), self.inbox)])

    def check_pulls(self, grace: float = PULL_GRACE_SECONDS) -> bool:
        """Forget pulls of which nothing was heard, and return whether there were any.

        `grace`: seconds after their end. A server does not always report the end of a pull: 2.9
        drops those that it finds expired when it looks where to send an event.
        """
        if self.credit and self.link.loop.time() > self.pull_ends - PULL_GRACE_SECONDS + grace:
            self.credit = 0
            return True
        return False

    async def stop(self) -> None:
        """End the pulls; what the server has sent until now is still delivered."""
        self.credit = 0
        if self._subscription is not None:
            await self.link.unsubscribe(self._subscription, drain=True)
            await self.info()

    async def info(self) -> dict[str, Any]:
        """Return the server's information of the consumer.

        This makes the server forget the pulls of those who do not listen any more. Otherwise server
        2.9, if only such pulls wait, takes an event that was returned out of its queue for one of
        them, keeps it until its claim ends, and gives another event out a second time.
        """
        try:
            return await self.link.call(self._info)
        except APIError as error:
            problem = self.link.url.unavailable(f"JetStream: {error}")
            self.fail(problem)
            raise problem from error
        except BrokerUnavailable as error:
            if not self.link.prepared:
                self.fail(error)
            raise

    async def close(self) -> None:
        """End the pulls at once."""
        self.credit = 0
        if self._subscription is not None:
            await self.link.unsubscribe(self._subscription)

    def _received_directly(
        self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> bool:
        if not reply.startswith(b"$JS.ACK."):
            return False
        if self.credit:
            self.credit -= 1
        self.deliver(data, reply.decode())
        return True

    async def _received(self, message: Any) -> None:
        reply = message.reply
        if reply.startswith("$JS.ACK."):
            if self.credit:
                self.credit -= 1
            self.deliver(message.data, reply)
            return
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100":
            return
        left = headers.get("Nats-Pending-Messages", "")
        self.credit -= min(self.credit, int(left) if left.isdigit() else self.credit)
        if status == "503":
            self.fail(self.link.url.unavailable("JetStream has no such consumer now"))
        elif status == "409":
            reason = headers.get("Description", "the pull was refused")
            if "batch" not in reason.lower():
                self.fail(self.link.url.unavailable(f"JetStream: {reason}"))
        elif not self.credit:
            self.ended()


class Received:
    """A message that a JetStream consumer gave out, as the token of a delivery."""

    __slots__ = (
        "claimed",
        "identity",
        "lost",
        "partition",
        "reply",
        "sequence",
        "settled",
        "stored",
    )

    def __init__(self, reply: str, identity: str, stored: int, claimed: float):
        # The subject for acknowledgements.
        self.reply = reply
        # Of the event in the stream: its sequence and the time when it was stored.
        self.identity = identity
        # That time, in nanoseconds since 1970.
        self.stored = stored
        # When the server gave it out, or its claim was renewed, by the clock of the loop.
        self.claimed = claimed
        self.sequence = 0
        self.partition: Any = None
        self.lost = False
        self.settled = False


def parse_reply(reply: str) -> tuple[int, str, int, str]:
    """Return deliveries, sequence in the stream, sequence in the consumer and time, from a reply.

    ``$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.CONSUMER_SEQUENCE.TIME.PENDING``, and with a domain
    and an account after ACK and a random token at the end in newer servers (ADR-15).
    """
    tokens = reply.split(".")
    first = 4 if len(tokens) == 9 else 6
    return int(tokens[first]), tokens[first + 1], int(tokens[first + 2]), tokens[first + 3]
