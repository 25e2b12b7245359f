"""noria's bus."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import noria
from buses.peer import CONCURRENCY, TYPE, Payload, Received


class NoriaPeer:
    """See `buses.peer.Peer`."""

    def __init__(self, url: str):
        self.bus = noria.Bus(url)

    def subscribe(self, received: Received) -> None:
        @self.bus.on(TYPE, group="bench", concurrency=CONCURRENCY)
        async def handle(event: noria.Event) -> None:
            received(event.data)

    async def start(self) -> None:
        await self.bus.start()

    def emit(self, payload: Payload) -> Awaitable[object]:
        return self.bus.emit(TYPE, **payload)

    def emit_all(self, payloads: Sequence[Payload]) -> Awaitable[object]:
        return self.bus.publish(*(noria.Event(TYPE, payload) for payload in payloads))

    async def stop(self) -> None:
        await self.bus.drain()
