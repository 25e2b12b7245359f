"""A consumer without a group."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from noria.bus.brokers.nats.connection import APIError, Connection, Link
from noria.bus.brokers.nats.fetcher import Fetcher
from noria.bus.brokers.nats.source import Source, parse_reply
from noria.bus.contract import Delivery, Subscription, UnclaimedConsumer
from noria.errors import BusError

CLOSE_SECONDS = 4.0


class SoloConsumer(UnclaimedConsumer, Fetcher):
    """A consumer without a group: an ephemeral JetStream consumer, made again on each link.

    Its events are not acknowledged; after a lost connection it continues after the last one that it
    received.
    """

    # Seconds after which the server removes a consumer that does not pull.
    INACTIVE_SECONDS = 300.0

    def __init__(
        self,
        connection: Connection,
        stream: str,
        subject: str,
        subscription: Subscription,
        discard: Callable[[SoloConsumer], None],
    ):
        super().__init__(connection, subscription)
        self.stream = stream
        self.subject = subject
        self.next_sequence = 0
        # When the stream was created.
        self.created = ""
        self.name = ""
        self._discard = discard

    async def start(self) -> None:
        link = await self.connection.get()
        try:
            info = await link.call(f"STREAM.INFO.{self.stream}")
        except APIError as error:
            raise self.connection.url.unavailable(f"JetStream: {error}") from error
        self.next_sequence = info["state"]["last_seq"] + 1
        self.created = info["created"]
        await self.open()

    async def open_source(self, link: Link) -> Source:
        await self._delete(link)
        info = await link.call(f"STREAM.INFO.{self.stream}")
        if info["created"] != self.created or info["state"]["last_seq"] + 1 < self.next_sequence:
            # The stream is a new one, or has lost events.
            self.next_sequence = 1
            self.created = info["created"]
        config = {
            "filter_subject": self.subject,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next_sequence,
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": round(self.INACTIVE_SECONDS * 1e9),
        }
        request = {"stream_name": self.stream, "config": config}
        created = await link.call(f"CONSUMER.CREATE.{self.stream}", request)
        self.name = created["name"]
        source = Source(link, self.stream, self.name, self._deliver, self.fail, self.wake)
        await source.open()
        return source

    def _deliver(self, body: bytes, reply: str) -> None:
        sequence = int(parse_reply(reply)[1])
        if sequence < self.next_sequence:
            return
        self.next_sequence = sequence + 1
        self.ready.append(Delivery(body))
        self.wake()

    async def fetch(self, limit: int) -> list[Delivery]:
        while True:
            link = await self.open()
            source = self.source
            assert source is not None
            await self.top_up(source, limit - len(self.ready))
            ready = self.ready
            if ready:
                return [ready.popleft() for _ in range(min(limit, len(ready)))]
            await self.wait(link, source)

    async def drain(self) -> None:
        if self.source is not None:
            await self.source.close()

    def stop_tasks(self) -> list[asyncio.Task[None]]:
        """It has none."""
        return []

    async def _delete(self, link: Link) -> None:
        if self.name:
            with contextlib.suppress(APIError):
                await link.call(f"CONSUMER.DELETE.{self.stream}.{self.name}")
            self.name = ""

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._discard(self)
        if self.link is not None:
            self.link.loss_callbacks.discard(self.wake)
        if not self.connection.closed:
            with contextlib.suppress(BusError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.drain()
                    await self._delete(await self.connection.get())
