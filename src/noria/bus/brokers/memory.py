"""The broker in this process: `memory:`, or `memory:NAME` shared by the buses of one event loop.

It has no claims that end: consumers live and die with the process. What is in it when the process
ends is lost (at most once), and so is an event of a type to which nobody has subscribed.
Options: ``limit``, the events that a group keeps at most; `publish` then waits for room.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import Mapping, Sequence
from typing import ClassVar

from noria.bus.contract import (
    DEDUPLICATION_SECONDS,
    EVERY_TYPE,
    Broker,
    Consumer,
    Delivery,
    Lag,
    Message,
    StoredLetter,
    Subscription,
)
from noria.bus.url import BrokerURL
from noria.errors import BusError

MAX_DEAD_LETTERS = 10_000
DEFAULT_LIMIT = 100_000

# The stores of memory:NAME that are connected.
_SHARED: dict[str, _Store] = {}


class _Stored:
    """An event in a group's queue."""

    __slots__ = ("attempt", "body", "key")

    def __init__(self, body: bytes, key: str | None):
        self.body = body
        self.key = key
        self.attempt = 0


class _Group:
    """The queue of a group of one type, and who has claimed which key."""

    def __init__(self) -> None:
        self.ready: deque[_Stored] = deque()
        # Events whose key another consumer has claimed, in order.
        self.blocked: dict[str, deque[_Stored]] = {}
        self.holders: dict[str, tuple[_MemoryConsumer, int]] = {}
        self.claimed = 0
        self.retrying = 0
        self.waiters: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self.ready) + sum(map(len, self.blocked.values())) + self.retrying

    def add(self, event: _Stored) -> None:
        self.ready.append(event)
        if self.waiters:
            self.wake()

    def wake(self) -> None:
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def claim(self, consumer: _MemoryConsumer, limit: int) -> list[Delivery]:
        ready = self.ready
        claimed: list[Delivery] = []
        while ready and len(claimed) < limit:
            event = ready.popleft()
            key = event.key
            if key is not None:
                holder, count = self.holders.get(key, (consumer, 0))
                if holder is not consumer or key in self.blocked:
                    self.blocked.setdefault(key, deque()).append(event)
                    continue
                self.holders[key] = (consumer, count + 1)
            event.attempt += 1
            claimed.append(Delivery(event.body, event.attempt, event))
        self.claimed += len(claimed)
        return claimed

    def settle(self, event: _Stored) -> None:
        """End a claim; what it blocked comes to the front of the queue."""
        self.claimed -= 1
        key = event.key
        if key is None:
            return
        holder, count = self.holders[key]
        if count > 1:
            self.holders[key] = (holder, count - 1)
            return
        del self.holders[key]
        if key in self.blocked:
            self.ready.extendleft(reversed(self.blocked.pop(key)))
            self.wake()


class _Store:
    """What the brokers of one name share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.users = 0
        self.loop = asyncio.get_running_loop()
        self.groups: dict[str, dict[str, _Group]] = {}
        # The queues of consumers without a group, by type.
        self.solo: dict[str, list[_Group]] = {}
        self.targets: dict[str, list[_Group]] = {}
        self.delayed: dict[str, int] = {}
        self.timers: set[asyncio.TimerHandle] = set()
        self.ids: dict[str, float] = {}
        self.letters: list[tuple[str, bytes]] = []
        self.letters_made = 0
        self.room: set[asyncio.Future[None]] = set()

    def groups_of(self, type: str) -> list[_Group]:
        """Return the queues that get events of this type."""
        found = self.targets.get(type)
        if found is None:
            found = [*self.groups.get(type, {}).values(), *self.solo.get(type, ())]
            found += self.solo.get(EVERY_TYPE, ())
            self.targets[type] = found
        return found

    def put(self, type: str, body: bytes, key: str | None) -> None:
        for group in self.groups_of(type):
            group.add(_Stored(body, key))

    def put_later(self, message: Message) -> None:
        def put() -> None:
            self.timers.discard(timer)
            self.delayed[message.type] -= 1
            self.put(message.type, message.body, message.key)

        self.delayed[message.type] = self.delayed.get(message.type, 0) + 1
        timer = self.loop.call_later(message.delay, put)
        self.timers.add(timer)

    def seen(self, id: str) -> bool:
        """Whether an event of this id was stored within the window; remembers it."""
        now = self.loop.time()
        while self.ids:
            oldest = next(iter(self.ids))
            if self.ids[oldest] > now:
                break
            del self.ids[oldest]
        if id in self.ids:
            return True
        self.ids[id] = now + DEDUPLICATION_SECONDS
        return False

    def made_room(self) -> None:
        for waiter in self.room:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        for timer in self.timers:
            timer.cancel()
        _SHARED.pop(self.name, None)


class MemoryBroker(Broker):
    """Queues in this process."""

    durable: ClassVar[bool] = False
    max_size = 1 << 30

    def __init__(self, url: BrokerURL, worker: str):
        super().__init__(url, worker)
        url.check_options("limit")
        self.limit = url.integer("limit", DEFAULT_LIMIT)
        self._store: _Store | None = None

    @property
    def store(self) -> _Store:
        if self._store is None:
            name = self.url.path
            store = _SHARED.get(name) if name else None
            if store is None:
                store = _Store(name)
                if name:
                    _SHARED[name] = store
            elif store.loop is not asyncio.get_running_loop():
                raise BusError(
                    f"{self.url.shown} is in use by another event loop; give each loop its own name"
                )
            store.users += 1
            self._store = store
        return self._store

    async def connect(self) -> None:
        assert self.store

    async def publish(self, messages: Sequence[Message]) -> Mapping[int, BusError]:
        store = self.store
        for message in messages:
            groups = store.groups_of(message.type)
            while any(len(group.ready) >= self.limit for group in groups):
                await _wait(store.room)
            if message.deduplicate and store.seen(message.id):
                continue
            if message.delay > 0:
                store.put_later(message)
            else:
                store.put(message.type, message.body, message.key)
        return {}

    async def subscribe(self, subscription: Subscription) -> Consumer:
        store = self.store
        type, name = subscription.type, subscription.group
        if name is None:
            group = _Group()
            store.solo.setdefault(type, []).append(group)
        else:
            group = store.groups.setdefault(type, {}).setdefault(name, _Group())
        store.targets.clear()
        return _MemoryConsumer(store, subscription, group)

    async def lag(self) -> list[Lag]:
        return [
            Lag(type, name, len(group), group.claimed, self.store.delayed.get(type, 0))
            for type, groups in sorted(self.store.groups.items())
            for name, group in sorted(groups.items())
        ]

    async def bury(self, letters: Sequence[bytes]) -> None:
        store = self.store
        for letter in letters:
            store.letters_made += 1
            store.letters.append((f"{store.letters_made:012d}", letter))
        del store.letters[:-MAX_DEAD_LETTERS]

    async def dead_letters(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        letters = self.store.letters
        first = bisect.bisect_right(letters, after, key=lambda letter: letter[0])
        return [StoredLetter(*letter) for letter in letters[first : first + limit]]

    async def forget(self, ids: Sequence[str]) -> None:
        forgotten = set(ids)
        self.store.letters[:] = [x for x in self.store.letters if x[0] not in forgotten]

    async def disconnect(self) -> None:
        if self._store is not None:
            self._store.users -= 1
            if not self._store.users:
                self._store.close()
            self._store = None

    async def close(self) -> None:
        await self.disconnect()


class _MemoryConsumer(Consumer):
    def __init__(self, store: _Store, subscription: Subscription, group: _Group):
        self.store = store
        self.subscription = subscription
        self.group = group
        self.claims: dict[int, Delivery] = {}

    async def fetch(self, limit: int) -> list[Delivery]:
        group = self.group
        while not (claimed := group.claim(self, limit)):
            await _wait(group.waiters)
        for delivery in claimed:
            self.claims[id(delivery)] = delivery
        if self.store.room:
            self.store.made_room()
        return claimed

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if self.claims.pop(id(delivery), None) is not None:
                self.group.settle(delivery.token)

    async def nak(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        events = [d.token for d in deliveries if self.claims.pop(id(d), None) is not None]
        for event in events:
            self.group.settle(event)
        if delay > 0 and events:
            self._put_later(events, delay)
        else:
            self.group.ready.extendleft(reversed(events))
            self.group.wake()

    def _put_later(self, events: list[_Stored], delay: float) -> None:
        store, group = self.store, self.group

        def put() -> None:
            store.timers.discard(timer)
            group.retrying -= len(events)
            group.ready.extendleft(reversed(events))
            group.wake()

        group.retrying += len(events)
        timer = store.loop.call_later(delay, put)
        store.timers.add(timer)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return [delivery for delivery in deliveries if id(delivery) not in self.claims]

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        await self.nak(list(self.claims.values()))
        solo = self.store.solo.get(self.subscription.type, [])
        if self.group in solo:
            solo.remove(self.group)
            self.store.targets.clear()
            self.store.made_room()


async def _wait(waiters: set[asyncio.Future[None]]) -> None:
    """Wait until one of the sets' users wakes it."""
    waiter = asyncio.get_running_loop().create_future()
    waiters.add(waiter)
    try:
        await waiter
    finally:
        waiters.discard(waiter)
