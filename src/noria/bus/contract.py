"""What a broker's adapter must do, so that the bus runs on it.

An adapter is one file in `brokers/` with two classes, a `Broker` and a `Consumer`, and one line in
`brokers/table.py`. It moves opaque bytes: events are encoded before `publish` and decoded after
`fetch`. It has no policy: `noria.bus.publisher` coalesces and repeats publications, and
`noria.bus.dispatch` retries, backs off, limits what is in flight and writes the dead letters.
`tests/bus/test_contract.py` checks an adapter. `brokers/memory.py` is the shortest one.

Names
    A *type* matches TYPE_PATTERN: words separated by dots. A *group* matches GROUP_PATTERN. Neither
    needs quoting in a NATS subject, in a durable consumer's name or in a Redis key, except that a
    NATS durable name cannot contain the dots of a type.

Groups
    Each group of a type gets every event of that type; the consumers of one group, in all
    processes, share them: each event is claimed by one of them at a time. A group exists from the
    first `subscribe` until an operator removes it, whether or not it has consumers. A new group
    begins with the oldest event that the broker still has (`start="oldest"`), or with the events
    published from now on (`start="newest"`).

    With group None, the consumer is on its own: it gets every event published from the return of
    `subscribe` until `close`, and nothing of it remains in the broker. It needs no claims: ack, nak
    and extend may do nothing. The type ``"*"`` is permitted only here, and stands for all types,
    those included whose first event is published later.

Claims
    `fetch` claims events for `Subscription.claim` seconds from the moment at which the broker gave
    them out. `extend` renews the claim. An event whose claim ends without an ack or a nak, because
    its worker died, is given to another consumer of the group, or to the same one, within about
    `claim` more seconds. `Delivery.attempt` counts how often the event was given out to the group,
    this time included, beginning with 1; the count survives workers, and the broker where it can.

Durability
    When `publish` returns, the broker has every message not named in its result, as durably as its
    settings promise. Only `ack` removes an event from a group. A broker with `durable = False`
    loses its events with the process.

Order within a key
    Messages with one key, published one after the other, are claimed in that order, by one consumer
    of a group at a time: an adapter must not give out an event while an earlier one of the same key
    and group is claimed by *another* consumer. It may give several to the *same* consumer at once,
    in order: the dispatcher runs them one after the other, keeps the claims of those that wait, and
    also retries the first of them itself, without a nak, so that the order holds. After a nak, or
    when the consumer dies or closes, the events of a key that were not acknowledged are given out
    again in their order, before any later event of that key. An adapter usually divides the keys
    into partitions by `partition` below, and gives each partition to one consumer at a time, by a
    lease. Leases are the adapter's alone: it takes, renews and returns them in a background task.
    A lease lasts as long as a claim, and is renewed after LEASE_RENEWAL_SHARE of its time. What its
    end makes of the claims, `extend` reports. Without a key there is no order.

Failures
    Every coroutine raises BrokerUnavailable when the connection is missing or breaks, within a few
    seconds, and works again once the broker is back: a call that finds no connection tries to
    connect. Callers back off and repeat the call. A repeated `ack` or `nak` of a claim that has
    ended is ignored. After a `publish` that raised, some of its messages may have been stored; the
    caller repeats them with the same `id`. An adapter logs the loss and the return of its
    connection once each, to the logger ``noria.bus``.

Cancellation
    `fetch` is cancelled when the bus drains. What the broker has given out to a cancelled fetch is
    kept for the next `fetch`, or returned to the group by `drain` (as by nak without delay): it is
    never lost. No other call is cancelled before it had seconds to finish.

Concurrency
    All calls come from one event loop. At most one `fetch` of a consumer runs at a time, while
    other calls, also on the same consumer, run beside it.
"""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from noria.bus.url import BrokerURL
    from noria.errors import BusError

TYPE_PATTERN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
GROUP_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
MAX_NAME_LENGTH = 128

# The type of a subscription to all types; only without a group.
EVERY_TYPE = "*"

DEFAULT_CLAIM_SECONDS = 30.0
# Leases are renewed after this share of their time, so that one ends at most that much earlier than
# a claim that was made while it lasted.
LEASE_RENEWAL_SHARE = 1 / 4
# Seconds within which an event with the same `id=` is not stored again.
DEDUPLICATION_SECONDS = 120.0
# The number of partitions of the keys, if the broker's URL does not say (?partitions=).
DEFAULT_PARTITIONS = 16
# Seconds for which a broker keeps events at most, if its URL does not say (?keep=).
DEFAULT_KEEP_SECONDS = 7 * 86400.0


@dataclass(slots=True)
class Message:
    """An event on its way to the broker.

    `id`: of the publication, unique among all types. A broker that can stores it once for each id
    within its window (DEDUPLICATION_SECONDS); if `deduplicate` is true, it must, and reports
    success both times.
    `key`: events of one type with the same key keep their order; None: no order.
    `delay`: seconds until the event may be given out; 0 for at once. A delayed event takes its
    place in the order of its key when its delay is over. The accuracy is about a second.
    """

    type: str
    body: bytes
    id: str
    key: str | None = None
    delay: float = 0.0
    deduplicate: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer gets.

    `claim`: seconds; see Claims above. `concurrency`: the most events that the consumer will have
    claimed at a time, all keys and types together; an adapter may size its buffers by it.
    """

    type: str
    group: str | None = None
    concurrency: int = 100
    claim: float = DEFAULT_CLAIM_SECONDS
    start: Literal["oldest", "newest"] = "oldest"


class Delivery:
    """An event that a consumer has claimed.

    `token` is the adapter's, for ack, nak and extend: a stream's entry id, a reply subject.
    """

    __slots__ = ("attempt", "body", "token")

    def __init__(self, body: bytes, attempt: int = 1, token: Any = None):
        self.body = body
        self.attempt = attempt
        self.token = token

    def __repr__(self) -> str:
        return f"<Delivery {self.token!r} attempt {self.attempt}, {len(self.body)} bytes>"


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a group is behind, of one type.

    `waiting`: events that no consumer has claimed yet. `in_flight`: claimed and not acknowledged,
    those included that wait for a retry. `delayed`: published with a delay that is not over, of the
    whole type, in the row of each group. None: the broker does not know.
    A type that has no group has one row, with group None and what is stored as `waiting`.
    """

    type: str
    group: str | None
    waiting: int | None
    in_flight: int | None
    delayed: int | None = None


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as the broker has it; `noria.bus.dead_letters` encodes the body.

    `id`: the broker's; letters are listed in the order of burial, and `after=` continues a list.
    """

    id: str
    body: bytes


class Broker(ABC):
    """A connection to a broker. Made from a URL without connecting.

    `worker`: a name for this process, unique among all workers and restarts, of letters, digits, _
    and -; read it when connecting, since it changes in the child of a fork.
    Its constructor raises InvalidBrokerURL for options that it does not have (`url.options`).
    """

    # Whether events outlive this process.
    durable: ClassVar[bool]

    def __init__(self, url: BrokerURL, worker: str):
        self.url = url
        self.worker = worker

    @property
    @abstractmethod
    def max_size(self) -> int:
        """The largest `Message.body`, in bytes; exact once connected."""

    @abstractmethod
    async def connect(self) -> None:
        """Connect, and create what all types share.

        Does nothing if connected; if it raises, nothing of it is left open. Raises
        BrokerUnavailable, made by `BrokerURL.unavailable`, and InvalidBrokerURL if the broker
        refuses the login, or if an option contradicts what other programs have set in this broker,
        as another number of partitions.
        """

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> Mapping[int, BusError]:
        """Store the messages, in their order; wait until the broker has confirmed all.

        One round trip for all of them. Returns the refused ones by their index, usually none.
        Raises BrokerUnavailable if it is unknown which were stored.
        """

    @abstractmethod
    async def subscribe(self, subscription: Subscription) -> Consumer:
        """Create the group if it does not exist, and return a consumer in it."""

    @abstractmethod
    async def lag(self) -> list[Lag]:
        """Return a row for each type and group that the broker has, sorted."""

    @abstractmethod
    async def bury(self, letters: Sequence[bytes]) -> None:
        """Append dead letters to the one stream that all types and groups share."""

    @abstractmethod
    async def dead_letters(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        """Return up to `limit` dead letters, the oldest first, those after the id `after`."""

    @abstractmethod
    async def forget(self, ids: Sequence[str]) -> None:
        """Remove dead letters; ids that do not exist are ignored."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Close the connection and the adapter's tasks; no error if it is broken, or closed.

        The next call connects again. Calls that are waiting raise BrokerUnavailable. Consumers
        that were not closed end with their tasks.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect for good: later calls raise BrokerUnavailable."""


class Consumer(ABC):
    """A member of a group. All methods may raise BrokerUnavailable."""

    @abstractmethod
    async def fetch(self, limit: int) -> list[Delivery]:
        """Wait until there are events, and claim up to `limit` of them: at least one.

        As soon as there is one, it returns what the broker gives out without waiting longer.
        """

    @abstractmethod
    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove events from the group: they are handled. One round trip for all of them.

        Returns when the broker has it, or when the acknowledgements are sent, for a broker that
        would only answer to each of them.
        """

    @abstractmethod
    async def nak(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Return events to the group, in this order, to be given out again after `delay` seconds.

        The delay is used for an event with a key only when the broker refused its dead letter.
        """

    @abstractmethod
    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew the claims; return those that this consumer has lost, as far as it is known.

        The events of those are given out again, to this consumer or another one. All others are
        still its own: an event that waits for a handler may be started.
        """

    @abstractmethod
    async def drain(self) -> None:
        """Claim nothing more; ack, nak and extend still work. No `fetch` is running or follows."""

    @abstractmethod
    async def close(self) -> None:
        """Return what is still claimed to the group, at once, as `nak` does; and return leases.

        A group of None is removed. Raises nothing: if the broker is gone, the claims end by
        themselves.
        """


class UnclaimedConsumer(Consumer):
    """A consumer without a group: it has no claims that could end or be renewed."""

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Do nothing."""

    async def nak(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        """Do nothing."""

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return no lost claims."""
        return ()


def partition(key: str, partitions: int) -> int:
    """Return the partition of a key: CRC-32 of its UTF-8, modulo the number of partitions.

    Every program that publishes to the same broker must compute the same number.
    """
    return zlib.crc32(key.encode()) % partitions
