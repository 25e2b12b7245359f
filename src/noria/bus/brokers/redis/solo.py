"""A consumer without a group: XREAD from the end of the streams.

The server has its positions, so that nothing is trimmed that it has not read, until it closes or
has not been heard of for half a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

from noria.bus.brokers.redis import resp, scripts
from noria.bus.brokers.redis.connection import CALL_SECONDS, Link
from noria.bus.brokers.redis.entry import event_of
from noria.bus.brokers.redis.shared import Shared
from noria.bus.contract import EVERY_TYPE, Delivery, Subscription, UnclaimedConsumer
from noria.errors import BusError

BLOCK_SECONDS = 2.0
# Events that are read from each stream at a time.
READ_COUNT = 50


class SoloConsumer(UnclaimedConsumer):
    """Gets every event of a type, or of all types, from now on."""

    def __init__(self, shared: Shared, subscription: Subscription, name: str):
        self.shared = shared
        self.name = name
        self.type = subscription.type
        self.link = Link(shared.servers)
        # The last entry that was read of each stream.
        self.positions: dict[bytes, bytes] = {}
        self.buffer: deque[Delivery] = deque()
        self.reading: asyncio.Task[list[Delivery]] | None = None
        self.stopping = False
        self.closed = False

    async def start(self) -> None:
        """Find the ends of the streams."""
        names = self.shared.names
        commands = self.shared.commands
        if self.type == EVERY_TYPE:
            # The position in the stream of new types first: what is new after it is found there.
            [[new]] = await commands.call(resp.script(scripts.POSITIONS, [names.new]))
            types, keyed = await commands.call(
                resp.command("SMEMBERS", names.types), resp.command("SMEMBERS", names.keyed)
            )
            self.positions[names.new.encode()] = new
            streams = [names.main(type.decode()) for type in types]
            streams += [each for type in keyed for each in names.streams(type.decode())[1:]]
        else:
            streams = names.streams(self.type)
        if streams:
            [found] = await commands.call(resp.script(scripts.POSITIONS, streams))
            for stream, position in zip(streams, found, strict=True):
                self.positions[stream.encode()] = position
        await self.shared.keeper.add_reader(self)

    async def fetch(self, limit: int) -> list[Delivery]:
        while not self.buffer:
            if self.reading is None:
                self.reading = asyncio.create_task(self._read(limit), name="noria bus fetch")
            # If this fetch is cancelled, the next one gets what is read.
            await asyncio.wait([self.reading])
            reading, self.reading = self.reading, None
            self.buffer.extend(reading.result())
        return [self.buffer.popleft() for _ in range(min(limit, len(self.buffer)))]

    async def _read(self, limit: int) -> list[Delivery]:
        found: list[Delivery] = []
        while not found and not self.stopping:
            command = resp.command(
                *("XREAD", "COUNT", min(limit, READ_COUNT), "BLOCK", int(BLOCK_SECONDS * 1000)),
                "STREAMS",
                *self.positions.keys(),
                *self.positions.values(),
            )
            [reply] = await self.link.exchange([command], 1, CALL_SECONDS + BLOCK_SECONDS)
            if isinstance(reply, Exception):
                raise self.link.explain(reply)
            for name, entries in reply or ():
                self.positions[name] = entries[-1][0]
                if name == self.shared.names.new.encode():
                    self._add_types(entries)
                else:
                    found += [
                        Delivery(event_of(fields)[0], 1, (name, id)) for id, fields in entries
                    ]
        return found

    def _add_types(self, entries: list[Any]) -> None:
        names = self.shared.names
        for _, fields in entries:
            found = dict(zip(fields[::2], fields[1::2], strict=True))
            type, keyed = found.get(b"t", b"").decode("utf-8", "replace"), found.get(b"k") == b"1"
            for stream in names.streams(type) if keyed else [names.main(type)]:
                self.positions.setdefault(stream.encode(), b"0-0")

    async def drain(self) -> None:
        self.stopping = True
        if self.reading is not None:
            if self.link.client_id is not None:
                with contextlib.suppress(BusError):
                    await self.shared.commands.call(
                        resp.command("CLIENT", "UNBLOCK", self.link.client_id)
                    )
            self.reading.cancel()
            await asyncio.gather(self.reading, return_exceptions=True)
            self.reading = None
        self.buffer.clear()

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            with contextlib.suppress(BusError):
                await self.shared.keeper.remove_reader(self)
        await self.stop()

    async def stop(self) -> None:
        """End the connection."""
        self.stopping = True
        if self.reading is not None:
            self.reading.cancel()
            await asyncio.gather(self.reading, return_exceptions=True)
            self.reading = None
        await self.link.close()
        self.shared.consumers.discard(self)
