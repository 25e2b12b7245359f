"""What the tests of brokers' adapters publish and fetch."""

from __future__ import annotations

import itertools
from typing import Any

from noria.bus.contract import Broker, Consumer, Delivery, Message

# No two events of a server that is shared have the same id.
ids = (f"id-{number}" for number in itertools.count())


def message(type: str, body: bytes = b"x", **options: Any) -> Message:
    """Return a message with an id of its own, unless the options have one."""
    return Message(type, body, options.pop("id", None) or next(ids), **options)


async def publish(broker: Broker, type: str, *bodies: bytes, **options: Any) -> None:
    """Publish messages; none may be refused."""
    assert not await broker.publish([message(type, body, **options) for body in bodies])


async def fetch(consumer: Consumer, count: int) -> list[Delivery]:
    """Fetch until there are `count` deliveries."""
    found: list[Delivery] = []
    while len(found) < count:
        found += await consumer.fetch(count - len(found))
    return found


async def handle_each(consumer: Consumer, count: int) -> list[Delivery]:
    """Fetch and acknowledge one delivery at a time."""
    found: list[Delivery] = []
    while len(found) < count:
        delivery = await fetch(consumer, 1)
        await consumer.ack(delivery)
        found += delivery
    return found


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    """Return the bodies of deliveries, in their order."""
    return [delivery.body for delivery in deliveries]
