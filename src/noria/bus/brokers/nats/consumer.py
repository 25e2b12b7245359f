"""A member of a group: what it pulls, has claimed and acknowledges."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from noria.bus.brokers.nats import durable
from noria.bus.brokers.nats.ack_floor import LOOK_SECONDS, AckFloor, nanoseconds
from noria.bus.brokers.nats.connection import APIError, Connection, Link
from noria.bus.brokers.nats.fetcher import Member
from noria.bus.brokers.nats.keys import KeyReader
from noria.bus.brokers.nats.names import NO_KEY, Names
from noria.bus.brokers.nats.source import Received, Source, parse_reply
from noria.bus.contract import LEASE_RENEWAL_SHARE, Delivery, Subscription
from noria.errors import BrokerUnavailable, BusError

ACK = b""
NAK = b"-NAK"
IN_PROGRESS = b"+WPI"

# What is claimed and waits for a fetch is renewed after this share of its claim, and dropped after
# that one.
RENEWAL_SHARE = 1 / 3
STALE_SHARE = 0.9
# Acknowledged events that are known, so that one that is given out again, because the server was
# killed before it had stored the acknowledgement, is not handled again.
MAX_KNOWN_ACKS = 10_000
CLOSE_SECONDS = 4.0


class GroupConsumer(Member):
    """A member of a group. Events with keys come from its `KeyReader`."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        subscription: Subscription,
        member: str,
        partitions: int,
        discard: Callable[[GroupConsumer], None],
    ):
        super().__init__(connection, names, subscription)
        self.name = names.consumer(subscription.type, self.group, NO_KEY)
        self.floor = AckFloor(names.state, names.ack_floor(self.name))
        self.draining = False
        # The link on which the durable consumer was compared with the one that made the claims.
        self._checked: Link | None = None
        self._keys_first = False
        self._discard = discard
        self.keys = KeyReader(self, member, partitions)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Create the group, and start the background tasks."""
        await self.open()
        self._tasks = [
            self.loop.create_task(self._renew(), name="noria bus claims"),
            self.loop.create_task(self.keys.run(), name="noria bus keys"),
        ]

    async def open_source(self, link: Link) -> Source:
        await self._check(link)
        await self.floor.load(link)
        source = Source(link, self.names.events, self.name, self._deliver, self.fail, self.wake)
        await source.open()
        return source

    def fail(self, problem: BrokerUnavailable) -> None:
        self._checked = None
        super().fail(problem)

    async def _check(self, link: Link) -> None:
        """Create the durable consumer if it does not exist, and find out if it was replaced."""
        subject = self.names.event(self.subscription.type, NO_KEY)
        start = self.info or self.subscription.start
        found = await durable.ensure(link, self.names.events, self.name, subject, self.claim, start)
        self._note(found)
        self._checked = link

    def _note(self, info: dict[str, Any]) -> bool:
        """Take the durable consumer's information; return whether another one took its place.

        The new one may have given an event with the same sequence number to another worker. An
        acknowledgement of a former claim would remove that worker's claim, so none is sent.
        """
        replaced = bool(self.info) and self.info["created"] != info["created"]
        self.info = info
        self.floor.note(info)
        if replaced:
            self.replacements += 1
            created = nanoseconds(info["created"])
            claimed = [each for each in self.claimed if each.partition is None]
            for received in (*claimed, *(each.token for each in self.ready)):
                # A later event was given out by the new consumer.
                if received.stored < created:
                    received.settled = True
                    self.claimed.discard(received)
        return replaced

    # Receiving.

    def _deliver(self, body: bytes, reply: str) -> None:
        attempt, sequence, _, stored = parse_reply(reply)
        identity = f"{sequence}.{stored}"
        if identity in self.known_acks or self.floor.covers(int(sequence), int(stored)):
            self.ack_again(reply)
            return
        received = Received(reply, identity, int(stored), self.loop.time())
        self.ready.append(Delivery(body, attempt, received))
        if self._waiter is not None:
            self.wake()

    async def fetch(self, limit: int) -> list[Delivery]:
        while True:
            link = await self.open()
            source = self.source
            assert source is not None
            await self.top_up(source, limit - len(self.ready))
            for partition in self.keys.thirsty():
                await partition.top_up()
            # Nothing is awaited between this and the return, so a cancellation loses nothing.
            taken = self._take(limit)
            if taken:
                return taken
            await self.wait(link, source)

    def _take(self, limit: int) -> list[Delivery]:
        """Return what is ready; if there are events with and without keys, half of each."""
        taken: list[Delivery] = []
        # The leases must last for as long as the dispatcher starts events without renewing their
        # claims. Otherwise events with keys stay in their queue: maybe the leases are renewed now.
        until = self.loop.time() + self.claim * (1 - LEASE_RENEWAL_SHARE)
        keys = self.ready_keys if self.keys.leases.valid(until) else deque[Delivery]()
        queues = [self.ready, keys]
        if self._keys_first:
            queues.reverse()
        self._keys_first = not self._keys_first
        first, second = queues
        self._move(first, (limit + 1) // 2 if second else limit, taken)
        self._move(second, limit - len(taken), taken)
        self._move(first, limit - len(taken), taken)
        return taken

    def _move(self, ready: deque[Delivery], limit: int, taken: list[Delivery]) -> None:
        stale = self.loop.time() - self.claim * STALE_SHARE
        limit += len(taken)
        while ready and len(taken) < limit:
            delivery = ready.popleft()
            received: Received = delivery.token
            partition = received.partition
            if partition is not None:
                if received.lost:
                    continue
                partition.unfetched -= 1
            elif received.claimed < stale:
                continue
            taken.append(delivery)
            self.claimed.add(received)

    # Settling.

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        tokens: list[Received] = [each.token for each in deliveries]
        await self._send(tokens, ACK)
        self._settle(tokens)
        known = self.known_acks
        known.update(dict.fromkeys([received.identity for received in tokens]))
        while len(known) > MAX_KNOWN_ACKS:
            del known[next(iter(known))]

    async def nak(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        # A claim that has ended is not this consumer's to return.
        ended = self.loop.time() - self.claim
        tokens: list[Received] = [each.token for each in deliveries if not each.token.settled]
        current = [each for each in tokens if each.claimed > ended and not each.lost]
        payload = b'-NAK {"delay": %d}' % round(delay * 1e9) if delay > 0 else NAK
        if current:
            await self._send(current, payload)
        self._settle(tokens)

    async def _send(self, tokens: Iterable[Received], payload: bytes) -> None:
        """Send a payload for the claims that still exist; wait until the server has read it."""
        tokens = [each for each in tokens if not each.settled]
        if not tokens:
            return
        link = await self.connection.get()
        if self._checked is not link:
            try:
                await self._check(link)
            except APIError as error:
                raise self.connection.url.unavailable(f"JetStream: {error}") from error
            tokens = [each for each in tokens if not each.settled]
        if self.replacements:
            tokens = [each for each in tokens if self._is_current(each, link)]
        if tokens:
            await link.send((each.reply, payload, "") for each in tokens)
            await link.round_trip()

    def _is_current(self, received: Received, link: Link) -> bool:
        """Whether a claim is one of the present durable consumers, as far as it is known."""
        partition = received.partition
        if partition is None or partition.replacements == self.replacements:
            return True
        # The streams may be new. Only the owner of the lease compares the consumer of a partition.
        return not received.lost and partition.checked is link

    def _settle(self, tokens: Iterable[Received]) -> None:
        for received in tokens:
            received.settled = True
            self.claimed.discard(received)
            if received.partition is not None:
                received.partition.settled(received)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        started = self.loop.time()
        ended = started - self.claim
        lost: list[Delivery] = []
        kept: list[Received] = []
        self.keys.check_leases()
        for delivery in deliveries:
            received: Received = delivery.token
            # What has ended in a partition comes back to this consumer, which keeps it.
            if received.lost or (received.partition is None and received.claimed < ended):
                lost.append(delivery)
            elif not received.settled:
                kept.append(received)
        if kept:
            await self._extend(kept, started)
        return lost

    async def _extend(self, tokens: Sequence[Received], started: float) -> None:
        await self._send(tokens, IN_PROGRESS)
        for received in tokens:
            received.claimed = max(received.claimed, started)

    async def _renew(self) -> None:
        """Keep the claims of what waits for a fetch."""
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self.claim * RENEWAL_SHARE / 2))
            now = self.loop.time()
            oldest = now - self.claim * RENEWAL_SHARE
            waiting = [each.token for each in (*self.ready, *self.ready_keys, *self.keys.held())]
            due = [each for each in waiting if each.claimed < oldest and not each.lost]
            if due:
                with contextlib.suppress(BusError):
                    await self._extend(due, now)
            if self.source is None or self.source.link.lost is not None:
                # The next acknowledgement compares the consumer, since nothing else does.
                self._checked = None
                continue
            with contextlib.suppress(BusError):
                if self._note(await self.source.info()):
                    url = self.connection.url
                    self.fail(url.unavailable(f"JetStream: the consumer {self.name} was replaced"))
                await self.floor.store(self.source.link)
                await self.keys.note_floors()

    # Ending.

    async def drain(self) -> None:
        self.draining = True
        if self.source is not None:
            await self.source.stop()
        await self.keys.stop()
        ready = [*self.ready_keys, *self.ready]
        self.ready_keys.clear()
        self.ready.clear()
        await self.nak([delivery for delivery in ready if not delivery.token.lost])

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._discard(self)
        tasks = [*self._tasks, *self.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self.link is not None:
            self.link.loss_callbacks.discard(self.wake)
        if self.connection.closed:
            return
        with contextlib.suppress(BusError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if not self.draining:
                    await self.drain()
                claimed = sorted(self.claimed, key=lambda received: received.sequence)
                await self.nak([Delivery(b"", 1, received) for received in claimed])
                await self.keys.leave()

    def stop_tasks(self) -> list[asyncio.Task[None]]:
        """Cancel the background tasks, as if the process ended; return them."""
        tasks = [*self._tasks, *self.tasks]
        for task in tasks:
            task.cancel()
        return tasks
