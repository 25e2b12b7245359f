"""A member of a group: claims events, acknowledges and returns them.

It reads from several streams, its `Source`s: that of the events without a key, that of the group's
retries, and those of the partitions whose leases it holds. It claims new events in one of two ways:

- By a script, which takes exactly as many as there is room for, and none of a partition whose
  lease is another's. If there are none, XREAD waits for the next entry, which claims nothing.
- While it holds no lease and few events arrive, by XREADGROUP with BLOCK: one round trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from noria.bus.brokers.redis import resp, scripts
from noria.bus.brokers.redis.connection import CALL_SECONDS, Link
from noria.bus.brokers.redis.entry import event_of
from noria.bus.brokers.redis.shared import Shared
from noria.bus.brokers.redis.source import Source
from noria.bus.contract import Consumer, Delivery, Subscription
from noria.errors import BrokerUnavailable, BusError

# Seconds for which a command waits for events, at most.
BLOCK_SECONDS = 2.0
# The same, in milliseconds, for a connection that cannot end it.
BLOCK_LIMITED_MS = 200
# Events that XREADGROUP takes from each stream; if there are more, the script follows.
BLOCKING_COUNT = 8
# Pending entries that are listed at a time.
LISTED = 1000
# A consumer with nothing pending that has not read for this time, in milliseconds, is gone.
FORGET_CONSUMER_MS = 3_600_000


class GroupConsumer(Consumer):
    """A consumer in a group of one type."""

    def __init__(self, shared: Shared, subscription: Subscription, name: str):
        assert subscription.group is not None
        self.shared = shared
        self.subscription = subscription
        self.type = subscription.type
        self.group = subscription.group
        self.name = name
        self.claim_ms = max(1, int(subscription.claim * 1000))
        names = shared.names
        self.main = Source(names.main(self.type))
        self.retry = Source(names.retry(self.type, self.group))
        self.partitions: dict[int, Source] = {}
        self.leases = names.leases(self.type, self.group)
        self.link = Link(shared.servers)
        self.block_ms = int(1000 * min(BLOCK_SECONDS, subscription.claim / 4)) or 1
        self.buffer: deque[Delivery] = deque()
        self.reading: asyncio.Task[list[Delivery]] | None = None
        # Whether a command waits for events, and whether it shall end early.
        self.blocked = False
        self.wanted = False
        # Whether the last reading found many events.
        self.busy = True
        # The stream that the script reads first.
        self.first = 0
        self.stopping = False
        self.closed = False

    # Subscribing.

    async def start(self) -> None:
        """Create the group."""
        await self._create_group(self.subscription.start)
        await self.shared.keeper.add(self)

    async def _create_group(self, start: str) -> None:
        names = self.shared.names
        keys = [names.retry(self.type, self.group), *names.streams(self.type)]
        first = "0" if start == "oldest" else "$"
        await self.shared.commands.call(
            self.shared.register(self.type),
            resp.script(scripts.SUBSCRIBE, keys, [self.group, first, FORGET_CONSUMER_MS]),
        )

    async def recreate_group(self) -> None:
        """Create the group again, which somebody or the loss of the server's data has removed."""
        await self._create_group("oldest")

    # Fetching.

    async def fetch(self, limit: int) -> list[Delivery]:
        while True:
            if self.buffer:
                return self._from_buffer(limit)
            if self.reading is None:
                self.reading = asyncio.create_task(self._read(limit), name="noria bus fetch")
            # If this fetch is cancelled, the next one or `drain` gets what is read. If the reading
            # fails, the next fetch begins another one.
            await asyncio.wait([self.reading])
            self._finish_reading()

    def _finish_reading(self) -> None:
        reading, self.reading = self.reading, None
        assert reading is not None
        self.buffer.extend(reading.result())

    def _from_buffer(self, limit: int) -> list[Delivery]:
        buffer = self.buffer
        if len(buffer) <= limit:
            taken = list(buffer)
            buffer.clear()
            return taken
        return [buffer.popleft() for _ in range(limit)]

    async def _read(self, limit: int) -> list[Delivery]:
        """Wait for events and claim up to `limit`; an empty list if the consumer stops."""
        while not self.stopping:
            started = asyncio.get_running_loop().time()
            found: list[Delivery] = []
            try:
                found = await self._read_once(limit)
                if asyncio.get_running_loop().time() - started > self.subscription.claim / 2:
                    # This process may have been stopped, and what it got be another's now.
                    lost = set(await self.extend(found))
                    found = [delivery for delivery in found if delivery not in lost]
            except Exception as error:
                # The reply may have been on its way: what it claimed is found in the lists.
                self._drop_claims(found)
                self._recover_all()
                if "NOGROUP" in str(error) and isinstance(error, BusError):
                    await self.recreate_group()
                    continue
                raise
            # Leases may have been lost while the reply was on its way.
            found = [delivery for delivery in found if not delivery.token[0].lost]
            if found:
                return found
        return []

    def _recover_all(self) -> None:
        for source in self.sources():
            source.recover = True

    def sources(self) -> list[Source]:
        return [self.retry, self.main, *self.partitions.values()]

    async def _read_once(self, limit: int) -> list[Delivery]:
        now = asyncio.get_running_loop().time()
        self.wanted = False
        sources = [
            source
            for source in self.sources()
            if not source.leaving and not source.lost and source.resume_at <= now
        ]
        unlisted = [source for source in sources if source.recover]
        if unlisted:
            await self._list_pending(unlisted)
        simple = len(sources) == 2 and limit >= 2
        if simple and not self.busy and not self.main.listed and not self.retry.listed:
            return await self._read_blocking(limit)
        found, positions = await self._take(limit, sources)
        if found:
            self.busy = len(found) >= BLOCKING_COUNT
            return found
        self.busy = False
        if not simple and not any(source.listed for source in sources):
            await self._wait(sources, positions)
        return []

    async def _list_pending(self, sources: list[Source]) -> None:
        """List what is pending and not known here: it is claimed before anything new."""
        rows: dict[Source, list[list[Any]]] = {source: [] for source in sources}
        starts: dict[Source, bytes] = dict.fromkeys(sources, b"-")
        while starts:
            commands = []
            for source, start in starts.items():
                # Of the events without a key, others have some.
                whose = (self.name,) if source.partition is None else ()
                commands.append(
                    resp.command(*("XPENDING", source.name, self.group, start, "+", LISTED), *whose)
                )
            replies = await self._exchange(commands)
            for source, page in zip(list(starts), replies, strict=True):
                rows[source] += page
                if len(page) == LISTED:
                    starts[source] = b"(" + page[-1][0]
                else:
                    del starts[source]
        for source in sources:
            source.recover = False
            source.add_listed(rows[source], 0)

    async def _take(
        self, limit: int, sources: list[Source]
    ) -> tuple[list[Delivery], Sequence[bytes]]:
        """Claim by script; if there is nothing, also return the last entry of each stream."""
        self.first += 1
        first = self.first % len(sources)
        sources = [*sources[first:], *sources[:first]]
        arguments: list[resp.Argument] = [self.group, self.name, limit]
        given = []
        for source in sources:
            listed = [source.listed.popleft() for _ in range(min(limit, len(source.listed)))]
            arguments += (
                b"" if source.partition is None else source.partition,
                b"0" if source.listed or self.stopping else b"1",
                source.listed_idle,
                len(listed),
            )
            for pair in listed:
                arguments += pair
            if listed:
                given.append(source)
        keys: list[resp.Argument] = [self.leases, *(source.name for source in sources)]
        [reply] = await self._exchange([resp.script(scripts.TAKE, keys, arguments)])
        head, bodies, *positions = reply
        if positions:
            return [], positions[-first:] + positions[:-first] if first else positions
        found = self._unpack(sources, head, bodies)
        if len(found) >= limit:
            # The limit is of all sources together: listed entries of the last ones may remain.
            for source in given:
                source.recover = True
        return found, ()

    def _unpack(self, sources: list[Source], head: bytes, bodies: bytes) -> list[Delivery]:
        found = []
        position = 0
        words = iter(head.split())
        for number, id, length, attempt in zip(words, words, words, words, strict=True):
            source = sources[int(number)]
            end = position + int(length)
            delivery = Delivery(bodies[position:end], int(attempt), (source, id))
            source.claims[id] = delivery
            found.append(delivery)
            position = end
        return found

    async def _read_blocking(self, limit: int) -> list[Delivery]:
        count = min(BLOCKING_COUNT, limit // 2)
        command = resp.command(
            *("XREADGROUP", "GROUP", self.group, self.name, "COUNT", count),
            *("BLOCK", self._block_ms(), "STREAMS", self.retry.name, self.main.name, ">", ">"),
        )
        [reply] = await self._block(command)
        found: list[Delivery] = []
        for name, entries in reply or ():
            source = self.main if name == self.main.name else self.retry
            for id, fields in entries:
                body, before = event_of(fields)
                delivery = Delivery(body, 1 + before, (source, id))
                source.claims[id] = delivery
                found.append(delivery)
        self.busy = len(found) >= count
        return found

    async def _wait(self, sources: list[Source], positions: Sequence[bytes]) -> None:
        """Wait until one of the streams has a new entry."""
        names = [source.name for source in sources]
        await self._block(
            resp.command(
                *("XREAD", "COUNT", 1, "BLOCK", self._block_ms(), "STREAMS"), *names, *positions
            )
        )

    def _block_ms(self) -> int:
        limited = self.link.client_id is None
        return min(BLOCK_LIMITED_MS, self.block_ms) if limited else self.block_ms

    async def _block(self, command: bytes) -> list[Any]:
        if self.wanted or self.stopping:
            return [None]
        self.blocked = True
        try:
            return await self._exchange([command], CALL_SECONDS + self.block_ms / 1000)
        finally:
            self.blocked = False

    async def _exchange(self, commands: list[bytes], seconds: float = CALL_SECONDS) -> list[Any]:
        replies = await self.link.exchange(commands, len(commands), seconds)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.link.explain(reply)
        return replies

    def wake(self) -> bytes | None:
        """Return the command that ends the waiting of `fetch`, if it waits."""
        self.wanted = True
        if self.blocked and self.link.client_id is not None:
            return resp.command("CLIENT", "UNBLOCK", self.link.client_id)
        return None

    # Settling.

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        by_source: dict[Source, list[bytes]] = {}
        for delivery in deliveries:
            source, id = delivery.token
            ids = by_source.get(source)
            if ids is None:
                by_source[source] = [id]
            else:
                ids.append(id)
        await self._call(
            *(
                resp.command("XACK", source.name, self.group, *ids)
                for source, ids in by_source.items()
            )
        )
        for source, ids in by_source.items():
            claims = source.claims
            for id in ids:
                claims.pop(id, None)

    async def _call(self, *commands: bytes) -> list[Any]:
        if not commands:
            return []
        try:
            return await self.shared.commands.call(*commands)
        except BrokerUnavailable:
            raise
        except BusError as error:
            if "NOGROUP" not in str(error):
                raise
            # Then nothing of it is claimed any more.
            return []

    async def nak(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> None:
        keyed = [each for each in deliveries if each.token[0].partition is not None]
        if keyed:
            await self._return_keyed(keyed, delay)
        by_source: dict[Source, list[Delivery]] = {}
        for delivery in deliveries:
            source, _ = delivery.token
            if source.partition is None:
                by_source.setdefault(source, []).append(delivery)
        names = self.shared.names
        commands = []
        for source, returned in by_source.items():
            arguments: list[resp.Argument] = [self.group, self.name, int(max(0.0, delay) * 1000)]
            arguments.append(f"{self.type}:{self.group}")
            for delivery in returned:
                arguments += (delivery.token[1], delivery.attempt)
            keys: list[resp.Argument] = [source.name, self.retry.name]
            keys += (names.delayed, names.counters, names.sequence)
            commands.append(resp.script(scripts.NAK, keys, arguments))
        await self._call(*commands)
        self._drop_claims(deliveries)
        if by_source and delay > 0:
            self.shared.keeper.expect(delay)

    async def _return_keyed(self, deliveries: list[Delivery], delay: float) -> None:
        """Leave the entries pending: this consumer, or the next owner, takes them from there.

        Other events of the partition wait meanwhile: the dispatcher returns an event with a key
        only when it drains, or when the broker refuses its dead letter.
        """
        now = asyncio.get_running_loop().time()
        for delivery in deliveries:
            source, id = delivery.token
            if source.claims.pop(id, None) is not None and not source.lost:
                source.recover = True
                source.resume_at = now + delay
        command = self.wake()
        if command is not None:
            await self._call(command)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        if not deliveries:
            return []
        keys: list[resp.Argument] = [self.leases]
        arguments: list[resp.Argument] = [self.group, self.name]
        for delivery in deliveries:
            source, id = delivery.token
            keys.append(source.name)
            arguments += (b"" if source.partition is None else source.partition, id)
        replies = await self._call(resp.script(scripts.EXTEND, keys, arguments))
        if not replies:
            return deliveries
        lost = [deliveries[index] for index in replies[0]]
        self._drop_claims(lost)
        return lost

    def _drop_claims(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            source, id = delivery.token
            source.claims.pop(id, None)

    # Leases; called by the keeper.

    def set_leases(self, held: list[int], leaving: list[int]) -> bool:
        """Note which partitions are this consumer's; return whether `fetch` must know at once."""
        changed = False
        for number in list(self.partitions):
            if number not in held:
                source = self.partitions.pop(number)
                source.lost = True
                if source.claims:
                    self.buffer = deque(d for d in self.buffer if d.token[0] is not source)
                    source.claims.clear()
        for number in held:
            if number not in self.partitions:
                name = self.shared.names.partition(self.type, number)
                self.partitions[number] = Source(name, number)
                changed = True
            self.partitions[number].leaving = number in leaving
        return changed

    # Ending.

    async def drain(self) -> None:
        self.stopping = True
        reading = self.reading
        if reading is not None:
            command = self.wake()
            if command is not None:
                await self._call(command)
            await asyncio.wait([reading])
            self.reading = None
            if reading.exception() is None:
                self.buffer.extend(reading.result())
        returned, self.buffer = list(self.buffer), deque()
        await self.nak(returned)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            await self.drain()
            self.shared.keeper.remove(self)
            claimed = [each for source in self.sources() for each in source.claims.values()]
            await self.nak(claimed)
            names = self.shared.names
            where = (self.type, self.group)
            keys = [self.leases, names.live(*where), names.sharing(*where)]
            await self._call(resp.script(scripts.RELEASE, keys, [self.name]))
        except BusError:
            # The claims and leases end by themselves.
            pass
        finally:
            self.shared.keeper.remove(self)
            await self.stop()

    async def stop(self) -> None:
        """End the connection, without returning anything."""
        self.stopping = self.closed = True
        if self.reading is not None:
            self.reading.cancel()
            await asyncio.gather(self.reading, return_exceptions=True)
            self.reading = None
        await self.link.close()
        self.shared.consumers.discard(self)
