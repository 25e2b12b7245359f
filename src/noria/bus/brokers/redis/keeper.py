"""The background task of a broker: leases, dead workers' claims, delayed events, trimming."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from noria.bus.brokers.redis import resp, scripts
from noria.bus.brokers.redis.connection import Link
from noria.bus.brokers.redis.names import Names
from noria.bus.brokers.redis.source import Source
from noria.bus.contract import LEASE_RENEWAL_SHARE, Subscription
from noria.errors import BrokerUnavailable, BusError

log = logging.getLogger("noria.bus")

# Seconds between two rounds, at most.
ROUND_SECONDS = 0.5
# Events that are moved at a time when they are due.
MOVED = 200
# Milliseconds until one that the server refused is tried again.
REFUSED_MS = 60_000
# Entries of dead workers that are listed at a time.
TAKEN_OVER = 100
# Milliseconds between two trims of a type, and for which acknowledged events stay: consumers
# without a group may not have read them yet.
TRIM_INTERVAL_MS = 5_000
RETAINED_MS = 10_000
# What a consumer without a group has not read is kept for it, as long as it says so this often.
READ_INTERVAL_SECONDS = 2.0
READ_KEPT_MS = 30_000


class Member(Protocol):
    """A consumer in a group, as the keeper sees it."""

    subscription: Subscription
    type: str
    group: str
    name: str
    claim_ms: int
    leases: str
    main: Source
    retry: Source
    stopping: bool
    wanted: bool

    @property
    def partitions(self) -> Mapping[int, Source]:
        """The partitions whose leases it holds."""

    def set_leases(self, held: list[int], leaving: list[int]) -> bool:
        """Note which partitions it holds; return whether its `fetch` must know at once."""

    def wake(self) -> bytes | None:
        """Return the command that ends the waiting of its `fetch`, if it waits."""

    async def recreate_group(self) -> None:
        """Create its group again."""


class Reader(Protocol):
    """A consumer without a group, as the keeper sees it."""

    name: str
    # By stream, the last entry that was read.
    positions: dict[bytes, bytes]


class Keeper:
    """Runs while the broker has consumers."""

    def __init__(self, commands: Link, names: Names):
        self.commands = commands
        self.names = names
        self.groups: set[Member] = set()
        self.readers: set[Reader] = set()
        self.read_noted = 0.0
        self.task: asyncio.Task[None] | None = None
        self.alarm: asyncio.Event | None = None
        # When a delayed event is due, as far as it is known, by the clock of the loop.
        self.due = float("inf")
        self.trimmed: dict[str, float] = {}
        self.relisted: dict[Member, float] = {}

    async def add(self, consumer: Member) -> None:
        """Begin to serve a consumer: when this returns, it has its leases."""
        self.groups.add(consumer)
        try:
            await self._renew(consumer)
        except BaseException:
            self.groups.discard(consumer)
            raise
        self._run()

    async def add_reader(self, reader: Reader) -> None:
        """Begin to serve a consumer without a group."""
        await self.commands.call(self._note_read(reader))
        self.readers.add(reader)
        self._run()

    def remove(self, consumer: Member) -> None:
        """End serving a consumer."""
        self.groups.discard(consumer)
        self.relisted.pop(consumer, None)

    async def remove_reader(self, reader: Reader) -> None:
        """End serving a consumer without a group, and remove what the server has of it."""
        self.readers.discard(reader)
        await self.commands.call(
            resp.command("ZREM", self.names.readers, reader.name),
            resp.command("DEL", self.names.reader + reader.name),
        )

    def expect(self, delay: float) -> None:
        """Note that an event is due after `delay` seconds."""
        due = asyncio.get_running_loop().time() + delay
        if due < self.due:
            self.due = due
            if self.alarm is not None:
                self.alarm.set()

    def _run(self) -> None:
        if self.task is None:
            self.alarm = asyncio.Event()
            self.task = asyncio.get_running_loop().create_task(
                self._rounds(), name="noria bus redis leases"
            )

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None

    async def _rounds(self) -> None:
        assert self.alarm is not None
        loop = asyncio.get_running_loop()
        next_round = loop.time()
        while True:
            seconds = min(next_round, self.due) - loop.time()
            if seconds > 0:
                self.alarm.clear()
                try:
                    async with asyncio.timeout(seconds):
                        await self.alarm.wait()
                except TimeoutError:
                    pass
                continue
            try:
                await self._move()
                if loop.time() >= next_round:
                    next_round = loop.time() + self._interval()
                    await self._round()
            except BrokerUnavailable:
                next_round = loop.time() + self._interval()
                self.due = float("inf")
            except Exception:
                log.exception("a round of leases and delayed events failed")
                next_round = loop.time() + self._interval()
                self.due = float("inf")

    async def _round(self) -> None:
        # At once: the commands go together.
        outcomes = await asyncio.gather(
            *(self._serve(consumer) for consumer in self.groups),
            self._note_all_read(),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _note_all_read(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.readers and now - self.read_noted >= READ_INTERVAL_SECONDS:
            self.read_noted = now
            await self.commands.call(*map(self._note_read, self.readers))

    def _note_read(self, reader: Reader) -> bytes:
        keys = [self.names.readers, self.names.reader + reader.name]
        positions = [each for pair in reader.positions.items() for each in pair]
        return resp.script(scripts.READ, keys, [reader.name, READ_KEPT_MS, *positions])

    def _interval(self) -> float:
        renewals = (consumer.subscription.claim * LEASE_RENEWAL_SHARE for consumer in self.groups)
        return min((ROUND_SECONDS, *renewals))

    async def _move(self) -> None:
        """Give delayed events that are due to their streams."""
        self.due = float("inf")
        keys = [self.names.delayed, self.names.counters]
        while True:
            script = resp.script(scripts.MOVE, keys, [MOVED, REFUSED_MS])
            [[moved, wait, problem]] = await self.commands.call(script)
            if problem:
                log.warning("a delayed event cannot be stored: %s", problem.decode())
            if moved < MOVED:
                break
        if wait >= 0:
            self.expect(wait / 1000)

    async def _serve(self, consumer: Member) -> None:
        try:
            await self._renew(consumer)
            await self._trim(consumer)
        except BrokerUnavailable:
            raise
        except BusError as error:
            if "NOGROUP" not in str(error):
                raise
            if consumer in self.groups:
                await consumer.recreate_group()

    async def _renew(self, consumer: Member) -> None:
        """Renew leases, and look for claims that have ended."""
        names = self.names
        type, group = consumer.type, consumer.group
        keys: list[resp.Argument] = [
            *(consumer.leases, names.live(type, group), names.sharing(type, group), names.keyed),
            *names.streams(type)[1:],
        ]
        sharing = b"0" if consumer.stopping else b"1"
        tick: list[resp.Argument] = [group, consumer.name, consumer.claim_ms, sharing, type]
        plain = (consumer.retry, consumer.main)
        (held, leaving), *expired = await self.commands.call(
            resp.script(scripts.TICK, keys, tick),
            *(
                resp.command(
                    *("XPENDING", source.name, group, "IDLE", consumer.claim_ms),
                    *("-", "+", TAKEN_OVER),
                )
                for source in plain
            ),
        )
        if consumer not in self.groups:
            return
        wake = consumer.wanted
        if consumer.set_leases(held, leaving):
            wake = True
        for source, rows in zip(plain, expired, strict=True):
            if rows and not source.listed:
                source.add_listed(rows, consumer.claim_ms)
                wake = wake or bool(source.listed)
        self._relist(consumer)
        command = consumer.wake() if wake else None
        if command is not None:
            await self.commands.call(command)

    def _relist(self, consumer: Member) -> None:
        """Have the pending entries of the partitions compared with the claims now and then.

        It is for what has been missed: there is no way known in which this happens.
        """
        now = asyncio.get_running_loop().time()
        if now - self.relisted.setdefault(consumer, now) > consumer.subscription.claim:
            self.relisted[consumer] = now
            for source in consumer.partitions.values():
                source.recover = True

    async def _trim(self, consumer: Member) -> None:
        now = asyncio.get_running_loop().time()
        type = consumer.type
        if now - self.trimmed.setdefault(type, now) < TRIM_INTERVAL_MS / 1000:
            return
        self.trimmed[type] = now
        names = self.names
        streams = names.streams(type)
        keys: list[resp.Argument] = [names.trim_lock(type), names.readers]
        keys += (*streams, consumer.retry.name)
        arguments: list[resp.Argument] = [TRIM_INTERVAL_MS // 2, RETAINED_MS, len(streams)]
        arguments.append(names.reader)
        await self.commands.call(resp.script(scripts.TRIM, keys, arguments))
