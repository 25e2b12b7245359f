"""Events with keys: the partitions of one consumer of a group, and their order.

Each partition has a durable JetStream consumer, from which only the owner of its lease pulls. The
server gives out what has to be repeated before anything new, but cannot be relied on for the order:
what a dead worker had claimed comes back when its claims end, maybe after later events. So whoever
takes a partition over, or connects again, holds back what it gets until it has all that is claimed,
and sorts it. The sequence numbers of the deliveries show whether somebody else, whose lease had
ended, got one in between; then it does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from noria.bus.backoff import reconnect_delay
from noria.bus.brokers.nats import durable
from noria.bus.brokers.nats.ack_floor import AckFloor
from noria.bus.brokers.nats.connection import APIError, Link
from noria.bus.brokers.nats.fetcher import Member
from noria.bus.brokers.nats.leases import Leases
from noria.bus.brokers.nats.names import split_subject
from noria.bus.brokers.nats.source import PULL_SECONDS, Received, Source, parse_reply
from noria.bus.contract import LEASE_RENEWAL_SHARE, Delivery
from noria.errors import BrokerUnavailable, BusError

log = logging.getLogger("noria.bus")

# Seconds between looks for partitions of which no publisher gave notice.
DISCOVERY_SECONDS = 10.0
# Seconds between looks at what is claimed, at first; doubled until the last one.
FIRST_LOOK_SECONDS = 0.005
LAST_LOOK_SECONDS = 1.0
# Claims, and seconds, after which a partition is read on although events of it are missing.
MAX_RECOVERY_CLAIMS = 4
MIN_RECOVERY_SECONDS = 30.0
# Seconds for which a pull for what is claimed waits, at most, and of its grace: pulling twice for
# the same events does no harm here.
RECOVERY_PULL_SECONDS = 0.5
RECOVERY_GRACE_SECONDS = 0.1


class Partition:
    """A partition whose lease this consumer has."""

    def __init__(self, reader: KeyReader, number: int):
        self.reader = reader
        self.consumer = reader.consumer
        self.number = number
        names = self.consumer.names
        subscription = self.consumer.subscription
        self.name = names.consumer(subscription.type, self.consumer.group, number)
        self.subject = names.event(subscription.type, number)
        self.floor = AckFloor(names.state, names.ack_floor(self.name))
        self.link: Link | None = None
        self.source: Source | None = None
        # By sequence: what was given to this consumer and is not settled.
        self.mine: dict[int, Received] = {}
        # The sequences of what was given out on this link and is not settled.
        self.session: set[int] = set()
        # What waits until everything claimed is here.
        self.held: list[Delivery] = []
        # Deliveries that no fetch has returned.
        self.unfetched = 0
        # Deliveries, since the last look at what is claimed, of what was here already.
        self.repeated = 0
        self.recovering = True
        self.disturbed = False
        self.broken = False
        # When its durable consumer was created.
        self.created = ""
        # The link on which it was compared last, and the `replacements` of the group's consumer
        # at that time.
        self.checked: Link | None = None
        self.replacements = self.consumer.replacements
        self.stopping = False
        self.lost = False
        self._settled = 0
        self._last = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self, link: Link) -> None:
        """Read on this link, after all that is claimed has come back."""
        self.recovering = True
        self.broken = False
        self.link = link
        self._start(self._attach, link)

    def _start(self, step: Callable[[Link], Awaitable[None]], link: Link) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = self.consumer.in_background(self._guard, step, link)

    async def _guard(self, step: Callable[[Link], Awaitable[None]], link: Link) -> None:
        try:
            await step(link)
        except BrokerUnavailable:
            self.broken = True
        except APIError as error:
            log.warning("%s: %s", self.name, error)
            self.broken = True

    async def _attach(self, link: Link) -> None:
        consumer = self.consumer
        stream = consumer.names.events
        replacements = consumer.replacements
        found = await durable.ensure(
            link, stream, self.name, self.subject, consumer.claim, consumer.info
        )
        await self.floor.load(link)
        # The server repeats what it knows to be claimed, so that it is known again what that is.
        known = sorted(self.mine.values(), key=lambda received: received.sequence)
        self._drop_unfetched()
        self.session.clear()
        if self.created not in ("", found["created"]):
            # Another one took its place: what is claimed here is not claimed there.
            for received in known:
                received.settled = True
                consumer.claimed.discard(received)
            self.mine.clear()
            known = []
        self.created = found["created"]
        self.checked = link
        self.replacements = replacements
        if known:
            await link.send([(received.reply, b"-NAK", "") for received in known])
            await link.round_trip()
        if self.source is not None:
            await self.source.close()
        source = Source(link, stream, self.name, self._deliver, self._fail, consumer.wake)
        await source.open()
        self.source = source
        info = await link.call(f"CONSUMER.INFO.{stream}.{self.name}")
        self._last = info["delivered"]["consumer_seq"]
        await self._recover(link)

    def _drop_unfetched(self) -> list[Received]:
        """Forget what no fetch has returned, and return it."""
        claimed = self.consumer.claimed
        dropped = [each for each in self.mine.values() if each not in claimed]
        for received in dropped:
            received.lost = True
            del self.mine[received.sequence]
        self.held.clear()
        self.unfetched = 0
        return dropped

    def _fail(self, problem: BrokerUnavailable) -> None:
        self.broken = True
        self.reader.wake()

    # Receiving.

    def _deliver(self, body: bytes, reply: str) -> None:
        if self.lost:
            return
        attempt, number, delivered, stored = parse_reply(reply)
        sequence = int(number)
        consumer = self.consumer
        now = consumer.loop.time()
        gap = delivered != self._last + 1
        self._last = delivered
        if gap:
            self.disturbed = True
            if not self.recovering:
                assert self.link is not None
                self.recovering = True
                self._start(self._recover, self.link)
        identity = f"{number}.{stored}"
        if identity in consumer.known_acks or self.floor.covers(sequence, int(stored)):
            consumer.ack_again(reply)
            return
        self.session.add(sequence)
        known = self.mine.get(sequence)
        if known is not None:
            known.reply = reply
            known.claimed = now
            self.repeated += 1
            return
        received = Received(reply, identity, int(stored), now)
        received.sequence = sequence
        received.partition = self
        self.mine[sequence] = received
        self.unfetched += 1
        delivery = Delivery(body, attempt, received)
        if self.recovering:
            self.held.append(delivery)
        else:
            consumer.push([delivery])

    async def _recover(self, link: Link) -> None:
        """Wait until this consumer has everything that is claimed; continue in order."""
        loop = link.loop
        names = self.consumer.names
        seconds = max(MIN_RECOVERY_SECONDS, MAX_RECOVERY_CLAIMS * self.consumer.claim)
        end = loop.time() + seconds
        pause = FIRST_LOOK_SECONDS
        while True:
            self.disturbed = False
            here, settled = len(self.session), self._settled
            info = await link.call(f"CONSUMER.INFO.{names.events}.{self.name}")
            self.floor.note(info)
            claimed = info["num_ack_pending"]
            # Acknowledgements may or may not have been counted meanwhile.
            if claimed <= here - (self._settled - settled) and not self.disturbed:
                break
            if loop.time() > end:
                log.warning("%s: %d claimed events did not return", self.name, claimed - here)
                break
            source = self.source
            assert source is not None
            source.check_pulls(RECOVERY_GRACE_SECONDS)
            # The server may have queued what is here already before what is missing: this doubles
            # the pulls until they reach it.
            missing = max(1, claimed - here) + 2 * self.repeated - source.credit
            self.repeated = 0
            if missing > 0:
                await self._pull(source, missing, RECOVERY_PULL_SECONDS)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_LOOK_SECONDS, self.consumer.claim / 4)
        self.recovering = False
        held, self.held = self.held, []
        held.sort(key=lambda delivery: delivery.token.sequence)
        self.consumer.push(held)

    async def note_floor(self) -> None:
        """Remember and store how far everything is acknowledged."""
        if self.source is not None and not self.lost:
            info = await self.source.info()
            if self.created != info["created"]:
                # `_attach` finds out which claims are left.
                self._fail(self.consumer.connection.url.unavailable("the consumer was replaced"))
                return
            self.floor.note(info)
            await self.floor.store(self.source.link)

    async def _pull(self, source: Source, count: int, seconds: float = PULL_SECONDS) -> None:
        """Pull for a time that ends before the lease does."""
        left = self.reader.leases.deadline - self.consumer.loop.time()
        if left > 0.01:
            source.expires = min(seconds, left * 0.9)
            await source.pull(count)

    def thirsty(self) -> bool:
        """Whether it should pull."""
        source = self.source
        if source is None or self.recovering or self.stopping or source.link.lost is not None:
            return False
        source.check_pulls()
        return source.credit + self.unfetched <= self.reader.quota // 2

    async def top_up(self) -> None:
        """Pull up to the quota."""
        source = self.source
        if source is not None:
            missing = self.reader.quota - source.credit - self.unfetched
            if missing > 0:
                await self._pull(source, missing)

    # Settling.

    def settled(self, received: Received) -> None:
        """An event was acknowledged or returned."""
        if self.mine.get(received.sequence) is received:
            del self.mine[received.sequence]
            self.session.discard(received.sequence)
            self._settled += 1
        if self.stopping and not self.mine:
            self.reader.wake()

    def lose(self) -> None:
        """The lease has ended: start nothing more."""
        self.lost = True
        for received in self.mine.values():
            received.lost = True
        self.mine.clear()
        self.held.clear()
        if self._task is not None:
            self._task.cancel()
        if self.source is not None:
            self.consumer.in_background(self.source.close)

    async def stop(self) -> None:
        """Claim nothing more, and return what no fetch has returned."""
        self.stopping = True
        if self._task is not None:
            self._task.cancel()
        try:
            if self.source is not None:
                await self.source.stop()
            dropped = sorted(self._drop_unfetched(), key=lambda received: received.sequence)
            if dropped:
                await self.consumer.send([(received.reply, b"-NAK") for received in dropped])
        finally:
            self.reader.wake()


class KeyReader:
    """The part of a group's consumer that reads events with keys."""

    def __init__(self, consumer: Member, member: str, count: int):
        self.consumer = consumer
        names, subscription = consumer.names, consumer.subscription
        subject = names.lease(subscription.type, consumer.group)
        self.leases = Leases(names.state, subject, member, consumer.claim, count)
        self.partitions: dict[int, Partition] = {}
        self.draining = False
        # Partitions that have events, or had.
        self.active: set[int] = set()
        self._changed = asyncio.Event()
        self._link: Link | None = None
        self._discover_at = 0.0
        self._renew_at = 0.0

    @property
    def quota(self) -> int:
        """The events that each partition may have waiting for a fetch."""
        return max(1, self.consumer.subscription.concurrency // max(1, len(self.partitions)))

    def thirsty(self) -> Sequence[Partition]:
        """Return the partitions that should pull."""
        if not self.partitions:
            return ()
        return [partition for partition in self.partitions.values() if partition.thirsty()]

    def held(self) -> Iterator[Delivery]:
        """Return what is held back until the order is known."""
        return itertools.chain.from_iterable(each.held for each in self.partitions.values())

    async def note_floors(self) -> None:
        """Remember and store how far everything is acknowledged, of each partition."""
        await asyncio.gather(*(each.note_floor() for each in self.partitions.values()))

    def wake(self) -> None:
        """Let the background task look again."""
        self._changed.set()

    async def run(self) -> None:
        """Take, renew and return leases."""
        failures = 0
        try:
            while True:
                self._changed.clear()
                try:
                    pause = await self._turn()
                except BrokerUnavailable:
                    failures += 1
                    await asyncio.sleep(reconnect_delay(failures))
                    continue
                except (APIError, BusError) as error:
                    failures += 1
                    log.warning("%s: %s", self.leases.subject, error)
                    await asyncio.sleep(reconnect_delay(failures))
                    continue
                failures = 0
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()
        finally:
            if self._link is not None:
                self._link.loss_callbacks.discard(self.wake)

    async def _turn(self) -> float:
        """Do what is to be done now; return the seconds until the next time."""
        loop = self.consumer.loop
        link = await self.consumer.connection.get()
        if link is not self._link:
            await self._listen(link)
        if loop.time() >= self._discover_at:
            await self._discover(link)
            self._discover_at = loop.time() + DISCOVERY_SECONDS
        if not self.active:
            return DISCOVERY_SECONDS
        self.check_leases()
        release = self._releasable()
        if release or loop.time() >= self._renew_at:
            await self._renew(link, release)
            while self._give_back():
                await self._renew(link, self._releasable())
        if not self.draining:
            self._take(link)
        return max(0.0, min(self._renew_at, self._discover_at) - loop.time())

    async def _listen(self, link: Link) -> None:
        names, subscription = self.consumer.names, self.consumer.subscription
        await link.subscribe(names.new_partition(subscription.type), self._noticed)
        await link.subscribe(self.leases.subject, self._lease_changed)
        if self._link is not None:
            self._link.loss_callbacks.discard(self.wake)
        self._link = link
        link.loss_callbacks.add(self.wake)
        self._discover_at = 0.0

    async def _noticed(self, message: Any) -> None:
        if message.data.isdigit() and int(message.data) not in self.active:
            self.active.add(int(message.data))
            self.wake()

    async def _lease_changed(self, message: Any) -> None:
        if self.active and self.leases.observe(json.loads(message.data)):
            self._renew_at = 0.0
            self.wake()

    async def _discover(self, link: Link) -> None:
        """Find the partitions that have events."""
        names, subscription = self.consumer.names, self.consumer.subscription
        request = {"subjects_filter": names.event(subscription.type, "*")}
        info = await link.call(f"STREAM.INFO.{names.events}", request)
        for subject in info["state"].get("subjects") or ():
            partition, _ = split_subject(subject)
            if partition.isdigit():
                self.active.add(int(partition))

    async def _renew(self, link: Link, release: frozenset[int]) -> None:
        await self.leases.renew(link, release)
        self._renew_at = self.consumer.loop.time() + self.consumer.claim * LEASE_RENEWAL_SHARE
        for number in release:
            partition = self.partitions.pop(number, None)
            if partition is not None:
                partition.lose()
        self._lose([number for number in self.partitions if number not in self.leases.owned])
        if self.consumer.ready_keys:
            self.consumer.wake()

    def _releasable(self) -> frozenset[int]:
        """Return the partitions that are stopped, with nothing claimed."""
        return frozenset(
            number for number, each in self.partitions.items() if each.stopping and not each.mine
        )

    def _give_back(self) -> bool:
        """Stop partitions that others should have; return whether some can be returned now."""
        stopping = sum(each.stopping for each in self.partitions.values())
        surplus = len(self.leases.owned) if self.draining else self.leases.surplus - stopping
        candidates = [number for number in self.leases.owned if not self._stopping(number)]
        candidates.sort(key=self._load)
        at_once = False
        for number in candidates[: max(0, surplus)]:
            if number in self.partitions:
                self.consumer.in_background(self.partitions[number].stop)
            else:
                # Never read.
                self.partitions[number] = partition = Partition(self, number)
                partition.stopping = True
                at_once = True
        return at_once

    def _load(self, number: int) -> int:
        partition = self.partitions.get(number)
        return -1 if partition is None else len(partition.mine)

    def _stopping(self, number: int) -> bool:
        return number in self.partitions and self.partitions[number].stopping

    def _take(self, link: Link) -> None:
        """Read the partitions that have events and whose leases are here."""
        for number in sorted(self.leases.owned & self.active):
            partition = self.partitions.get(number)
            if partition is None:
                partition = self.partitions[number] = Partition(self, number)
            elif partition.stopping or (partition.link is link and not partition.broken):
                continue
            partition.begin(link)

    def check_leases(self) -> None:
        """Give up the partitions if their leases have ended."""
        if self.partitions and not self.leases.valid(self.consumer.loop.time()):
            self._lose(list(self.partitions))

    def _lose(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            partition = self.partitions.pop(number)
            if partition.mine:
                log.warning("%s: the lease of the partition has ended", partition.name)
            partition.lose()

    async def stop(self) -> None:
        """Claim nothing more; partitions are returned when their last event is settled."""
        self.draining = self.leases.draining = True
        stops = [each.stop() for each in self.partitions.values() if not each.stopping]
        for outcome in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, BusError):
                raise outcome
        self._renew_at = 0.0
        self.wake()

    async def leave(self) -> None:
        """Return all leases."""
        if self.leases.owned or self.partitions:
            with contextlib.suppress(APIError):
                await self.leases.leave(await self.consumer.connection.get())
