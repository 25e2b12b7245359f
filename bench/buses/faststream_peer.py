"""FastStream on Redis Streams and on NATS JetStream, with its fastest documented settings.

`apply_types=False`: no dependency injection and no validation, since noria's handler has none.
`logger=None`: no line in the log for each event. Events are read 100 at a time. Each is
acknowledged after its handler has returned (the default AckPolicy). Modes:

- concurrent: up to 100 handlers at a time, as noria's worker (Redis: `max_workers`; NATS: a pull
  subscription, whose events are handled together)
- serial: one handler at a time (NATS: a push subscription, the fastest for a handler of one event)
- batch: the handler gets a list of up to 100 events, which are acknowledged or fail together
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from buses.peer import CONCURRENCY, TYPE, Payload, Received

STREAM = "bench"
MODES = ("concurrent", "serial", "batch")
# How long a subscriber waits for events: a batch of NATS for more events, too.
POLL_SECONDS = 2.0
NATS_BATCH_SECONDS = 0.02


def handlers(received: Received) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a handler of one event, and one of a batch."""

    async def handle(event: Payload) -> None:
        received(event)

    async def handle_batch(events: list[Payload]) -> None:
        for event in events:
            received(event)

    return handle, handle_batch


class RedisPeer:
    """See `buses.peer.Peer`."""

    def __init__(self, url: str, mode: str):
        from faststream.redis import RedisBroker
        from redis.asyncio import Redis

        self.mode = mode
        self.broker = RedisBroker(url, apply_types=False, logger=None)
        self.client = Redis.from_url(url)

    def subscribe(self, received: Received) -> None:
        from faststream.redis import StreamSub

        handle, handle_batch = handlers(received)
        stream = StreamSub(
            TYPE,
            group="bench",
            consumer="one",
            max_records=CONCURRENCY,
            polling_interval=int(POLL_SECONDS * 1000),
            batch=self.mode == "batch",
        )
        options = {"max_workers": CONCURRENCY} if self.mode == "concurrent" else {}
        subscriber = self.broker.subscriber(stream=stream, **options)
        subscriber(handle_batch if self.mode == "batch" else handle)

    async def start(self) -> None:
        await self.broker.start()

    def emit(self, payload: Payload) -> Awaitable[object]:
        return self.broker.publish(payload, stream=TYPE)

    async def emit_all(self, payloads: Sequence[Payload]) -> None:
        async with self.client.pipeline(transaction=False) as pipeline:
            for payload in payloads:
                await self.broker.publish(payload, stream=TYPE, pipeline=pipeline)
            await pipeline.execute()

    async def stop(self) -> None:
        await self.broker.stop()
        await self.client.aclose()


class NatsPeer:
    """See `buses.peer.Peer`."""

    def __init__(self, url: str, mode: str):
        from faststream.nats import JStream, NatsBroker

        self.mode = mode
        self.broker = NatsBroker(url, apply_types=False, logger=None)
        self.stream = JStream(STREAM, subjects=[TYPE])
        # Declares the stream.
        self.broker.publisher(TYPE, stream=self.stream)

    def subscribe(self, received: Received) -> None:
        from faststream.nats import PullSub

        handle, handle_batch = handlers(received)
        options: dict[str, Any] = {
            "durable": "bench",
            "deliver_policy": "all",
            "stream": self.stream,
        }
        if self.mode == "concurrent":
            options["pull_sub"] = PullSub(batch_size=CONCURRENCY)
        elif self.mode == "batch":
            options["pull_sub"] = PullSub(
                batch_size=CONCURRENCY, timeout=NATS_BATCH_SECONDS, batch=True
            )
        subscriber = self.broker.subscriber(TYPE, **options)
        subscriber(handle_batch if self.mode == "batch" else handle)

    async def start(self) -> None:
        await self.broker.start()

    def emit(self, payload: Payload) -> Awaitable[object]:
        return self.broker.publish(payload, TYPE, stream=STREAM)

    async def emit_all(self, payloads: Sequence[Payload]) -> None:
        # FastStream has no batches on NATS.
        await asyncio.gather(*(self.emit(payload) for payload in payloads))

    async def stop(self) -> None:
        await self.broker.stop()
