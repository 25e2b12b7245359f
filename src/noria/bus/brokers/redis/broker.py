"""The broker: publishing, subscribing, dead letters, lag."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from redis.exceptions import ResponseError

from noria.bus.brokers.redis import resp, scripts
from noria.bus.brokers.redis.connection import Link, Servers
from noria.bus.brokers.redis.consumer import GroupConsumer
from noria.bus.brokers.redis.entry import event_of
from noria.bus.brokers.redis.names import Names
from noria.bus.brokers.redis.shared import Shared
from noria.bus.brokers.redis.solo import SoloConsumer
from noria.bus.contract import (
    DEDUPLICATION_SECONDS,
    DEFAULT_KEEP_SECONDS,
    DEFAULT_PARTITIONS,
    Broker,
    Consumer,
    Lag,
    Message,
    StoredLetter,
    Subscription,
    partition,
)
from noria.bus.url import BrokerURL
from noria.errors import BrokerUnavailable, BusError, InvalidBrokerURL

MAX_PARTITIONS = 1024
# Events that one run of a script stores: the server does nothing else meanwhile.
PUBLISHED_AT_ONCE = 250
# Seconds after which types are registered again: the server may have lost them (FLUSHDB).
REGISTERED_SECONDS = 10.0
# Seconds in which replicas must confirm, with ?replicas=.
REPLICA_SECONDS = 2.0
# Events that `lag` counts one by one, for servers that do not know how many wait.
COUNTED_ONE_BY_ONE = 1000


class RedisBroker(Broker):
    """Streams of Redis or Valkey."""

    durable: ClassVar[bool] = True
    # Half of the server's default of proto-max-bulk-len.
    max_size = 1 << 28

    def __init__(self, url: BrokerURL, worker: str):
        super().__init__(url, worker)
        tls = ("ca", "cert", "key") if url.scheme in ("rediss", "valkeys") else ()
        url.check_options("keep", "partitions", "prefix", "replicas", *tls)
        self.keep_ms = int(url.seconds("keep", DEFAULT_KEEP_SECONDS) * 1000)
        self.partitions = url.integer("partitions", DEFAULT_PARTITIONS, 1, MAX_PARTITIONS)
        self.replicas = url.integer("replicas", 0, 0, 100)
        self.prefix = url.options.get("prefix", "noria")
        if not self.prefix or any(character in self.prefix for character in " \r\n"):
            raise InvalidBrokerURL(f"{url.shown}: prefix={self.prefix!r} must be a word")
        self.servers = Servers(url)
        self.publications = Link(self.servers)
        self.commands = Link(self.servers)
        self._shared: Shared | None = None
        self._consumers_made = 0
        # What has been registered by the connection for publications, and until when that holds.
        self._registered: set[tuple[str, bool]] = set()
        self._registered_by = 0
        self._registered_until = 0.0
        # With ?replicas=: what is stored and not confirmed by them, by identity, and the generation
        # of the connection that has stored it.
        self._stored: dict[int, Message] = {}
        self._stored_by = 0
        # By type and partition: what precedes the body of an event without options.
        self._heads: dict[tuple[str, int | None], bytes] = {}

    async def connect(self) -> None:
        if self._shared is None:
            names = await self._agree()
            # A publication may have connected meanwhile.
            if self._shared is None:
                self._shared = Shared(self.servers, self.commands, names)
        if self.publications.connection is None or self.commands.connection is None:
            await self.publications.call(resp.command("PING"))
            await self.commands.call(resp.command("PING"))

    async def _agree(self) -> Names:
        """Store the number of partitions, or take that of the other programs."""
        key = Names(self.prefix, 0).settings
        read = resp.command("HGET", key, "partitions")
        [stored] = await self.commands.call(read)
        if stored is None:
            # Not when it exists: a server without memory left would refuse it.
            write = resp.command("HSETNX", key, "partitions", self.partitions)
            _, stored = await self.commands.call(write, read)
        number = int(stored) if stored.isdigit() else 0
        if not 1 <= number <= MAX_PARTITIONS:
            found = stored.decode("utf-8", "backslashreplace")
            raise InvalidBrokerURL(
                f"{self.url.shown}: {key} in the server has partitions={found!r}, which is no "
                f"number from 1 to {MAX_PARTITIONS}; correct it: HSET {key} partitions N"
            )
        if number != self.partitions and "partitions" in self.url.options:
            raise InvalidBrokerURL(
                f"{self.url.shown}: partitions={self.partitions}, but the programs that use this "
                f"broker have {number}; leave the option out"
            )
        self.partitions = number
        return Names(self.prefix, self.partitions)

    async def _connected(self) -> Shared:
        if self._shared is None:
            await self.connect()
            assert self._shared is not None
        return self._shared

    # Publishing.

    async def publish(self, messages: Sequence[Message]) -> Mapping[int, BusError]:
        shared = await self._connected()
        link = self.publications
        await link.connect()
        places: Sequence[int] = range(len(messages))
        new = messages
        if self._stored and self._stored_by == link.generation:
            # WAIT is repeated for these. It is about what its own connection has written: after a
            # lost connection they are stored again.
            places = [i for i, message in enumerate(messages) if id(message) not in self._stored]
            new = [messages[i] for i in places]
        commands: list[bytes] = []
        now = time.monotonic()
        if self._registered_by != link.generation or now > self._registered_until:
            self._registered_by = link.generation
            self._registered_until = now + REGISTERED_SECONDS
            self._registered.clear()
        for each in self._unregistered(new):
            self._registered.add(each)
            commands.append(shared.register(*each))
        first_script = len(commands)
        commands += [
            self._pack(shared.names, new[first : first + PUBLISHED_AT_ONCE])
            for first in range(0, len(new), PUBLISHED_AT_ONCE)
        ]
        count = len(commands)
        if self.replicas:
            commands.append(resp.command("WAIT", self.replicas, int(REPLICA_SECONDS * 1000)))
        try:
            replies = await link.call(*commands)
        except BusError:
            self._registered_by = 0
            raise
        refused: dict[int, BusError] = {}
        for number, reply in enumerate(replies[first_script:count]):
            for index, text in reply:
                error = link.explain(ResponseError(text.decode()))
                if isinstance(error, BrokerUnavailable):
                    raise error
                refused[places[number * PUBLISHED_AT_ONCE + index]] = error
        if self.replicas:
            if new is not messages and self._stored_by != link.generation:
                raise self.url.unavailable("the connection was lost")
            self._stored.clear()
            if replies[count] < self.replicas:
                self._stored_by = link.generation
                self._stored = {id(m): m for i, m in enumerate(messages) if i not in refused}
                raise BrokerUnavailable(
                    f"{self.url.shown}: the server has stored the events, but {replies[count]} of "
                    f"{self.replicas} replicas have the events"
                )
        for message in messages:
            if message.delay > 0:
                shared.keeper.expect(message.delay)
        return refused

    def _unregistered(self, messages: Sequence[Message]) -> Iterator[tuple[str, bool]]:
        found = {(message.type, message.key is not None) for message in messages}
        return iter(sorted(found - self._registered))

    def _pack(self, names: Names, messages: Sequence[Message]) -> bytes:
        """Return the command that stores the messages."""
        pieces: list[bytes] = []
        heads = self._heads
        for message in messages:
            body = message.body
            where = (
                message.type,
                None if message.key is None else partition(message.key, self.partitions),
            )
            if message.delay <= 0 and not message.deduplicate:
                head = heads.get(where)
                if head is None:
                    head = heads[where] = resp.string(_stream(names, *where)) + resp.string("")
            else:
                id = message.id if message.deduplicate else ""
                options = f"{max(0, int(message.delay * 1000))} {message.type} {id}"
                head = resp.string(_stream(names, *where)) + resp.string(options)
            pieces += (head, b"$%d\r\n" % len(body), body, b"\r\n")
        start = resp.array_of_script(
            scripts.PUBLISH,
            [names.delayed, names.counters, names.sequence],
            [self.keep_ms, names.ids, int(DEDUPLICATION_SECONDS * 1000)],
            3 * len(messages),
        )
        return start + b"".join(pieces)

    # Subscribing.

    async def subscribe(self, subscription: Subscription) -> Consumer:
        shared = await self._connected()
        consumer: GroupConsumer | SoloConsumer
        self._consumers_made += 1
        name = f"{self.worker}-{self._consumers_made}"
        if subscription.group is None:
            consumer = SoloConsumer(shared, subscription, name)
        else:
            consumer = GroupConsumer(shared, subscription, name)
        shared.consumers.add(consumer)
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    # Operating.

    async def lag(self) -> list[Lag]:
        shared = await self._connected()
        names = shared.names
        members, counters = await shared.commands.call(
            resp.command("SMEMBERS", names.types), resp.command("HGETALL", names.counters)
        )
        types = sorted(each.decode() for each in members)
        delayed = dict(zip(counters[::2], map(int, counters[1::2]), strict=True))
        if not types:
            return []
        replies = await shared.commands.call(
            *(resp.script(scripts.LAG, names.streams(type), [COUNTED_ONE_BY_ONE]) for type in types)
        )
        rows: list[Lag] = []
        for type, (stored, *groups) in zip(types, replies, strict=True):
            later = delayed.get(type.encode(), 0)
            if not groups:
                rows.append(Lag(type, None, stored, 0, later))
            for name, waiting, pending in sorted(groups):
                group = name.decode()
                retries = await self._retries(shared, type, group)
                retries += delayed.get(f"{type}:{group}".encode(), 0)
                rows.append(
                    Lag(type, group, None if waiting < 0 else waiting, pending + retries, later)
                )
        return rows

    async def _retries(self, shared: Shared, type: str, group: str) -> int:
        """Return the number of events that are given out again to a group, or wait for that."""
        script = resp.script(scripts.LAG, [shared.names.retry(type, group)], [COUNTED_ONE_BY_ONE])
        [[_, *groups]] = await shared.commands.call(script)
        return sum(max(0, waiting) + pending for _, waiting, pending in groups)

    async def bury(self, letters: Sequence[bytes]) -> None:
        shared = await self._connected()
        [problem] = await shared.commands.call(
            resp.script(scripts.BURY, [shared.names.dead], letters)
        )
        if problem:
            raise BusError(f"{self.url.shown} refused dead letters: {problem.decode()}")

    async def dead_letters(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        shared = await self._connected()
        start = f"({after}" if after else "-"
        [entries] = await shared.commands.call(
            resp.command("XRANGE", shared.names.dead, start, "+", "COUNT", limit)
        )
        return [StoredLetter(id.decode(), event_of(fields)[0]) for id, fields in entries]

    async def forget(self, ids: Sequence[str]) -> None:
        shared = await self._connected()
        if ids:
            await shared.commands.call(resp.command("XDEL", shared.names.dead, *ids))

    async def disconnect(self) -> None:
        await self._stop_tasks()
        await self.publications.reset()
        await self.commands.reset()
        await self.servers.close()

    async def close(self) -> None:
        await self._stop_tasks()
        await self.publications.close()
        await self.commands.close()
        await self.servers.close()

    async def _stop_tasks(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.keeper.close()
            for consumer in list(shared.consumers):
                await consumer.stop()


def _stream(names: Names, type: str, number: int | None) -> str:
    return names.main(type) if number is None else names.partition(type, number)
