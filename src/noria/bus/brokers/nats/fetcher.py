"""What consumers have in common: the queue before `fetch`, and the pulls that fill it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from noria.bus.brokers.nats.connection import APIError, Connection, Link
from noria.bus.brokers.nats.names import Names
from noria.bus.brokers.nats.source import Received, Source
from noria.bus.contract import Consumer, Delivery, Subscription
from noria.errors import BrokerUnavailable, BusError


class Fetcher(Consumer):
    """A queue of deliveries, and the source that fills it on the present link."""

    def __init__(self, connection: Connection, subscription: Subscription):
        self.connection = connection
        self.subscription = subscription
        self.ready: deque[Delivery] = deque()
        self.problem: BrokerUnavailable | None = None
        self.link: Link | None = None
        self.source: Source | None = None
        self.closed = False
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let a waiting `fetch` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, problem: BrokerUnavailable) -> None:
        """Let `fetch` raise, and open the source again when it is called next."""
        self.problem = problem
        self.wake()

    async def open(self) -> Link:
        """Return the link, with a source on it."""
        link = await self.connection.get()
        if self.link is not link or self.problem is not None:
            if self.source is not None:
                await self.source.close()
            try:
                source = await self.open_source(link)
            except APIError as error:
                raise self.connection.url.unavailable(f"JetStream: {error}") from error
            if self.link is not None:
                self.link.loss_callbacks.discard(self.wake)
            self.link = link
            self.source = source
            self.problem = None
            link.loss_callbacks.add(self.wake)
        return link

    async def open_source(self, link: Link) -> Source:
        raise NotImplementedError

    async def wait(self, link: Link, source: Source) -> None:
        """Wait until something is ready, at most until the pulls are over."""
        self._raise_for_loss(link)
        loop = link.loop
        self._waiter = waiter = loop.create_future()
        timer = loop.call_at(source.pull_ends + 0.1, self.wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        source.check_pulls()
        self._raise_for_loss(link)

    def _raise_for_loss(self, link: Link) -> None:
        if link.lost is not None:
            raise link.lost
        if self.problem is not None:
            raise self.problem

    async def top_up(self, source: Source, room: int) -> None:
        """Pull for as many messages as there is room for; not for each of them alone."""
        missing = room - source.credit
        if missing > 0 and (not source.credit or missing * 4 >= self.subscription.concurrency):
            await source.pull(missing)


class Member(Fetcher):
    """What the two halves of a group's consumer share: `consumer` and `keys`."""

    def __init__(self, connection: Connection, names: Names, subscription: Subscription):
        super().__init__(connection, subscription)
        assert subscription.group is not None
        self.names = names
        self.claim = subscription.claim
        self.group: str = subscription.group
        # The information of the durable consumer of the events without a key; the others begin
        # where it begins.
        self.info: dict[str, Any] = {}
        # How often another durable consumer was found in its place.
        self.replacements = 0
        self.loop = asyncio.get_running_loop()
        # Events with keys, beside those without in `ready`.
        self.ready_keys: deque[Delivery] = deque()
        # What `fetch` has returned and is not settled.
        self.claimed: set[Received] = set()
        self.known_acks: dict[str, None] = {}
        # Reply subjects of what was given out again although it is acknowledged.
        self.repeats: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def push(self, deliveries: Iterable[Delivery]) -> None:
        """Add events with keys to the queue."""
        self.ready_keys.extend(deliveries)
        self.wake()

    def ack_again(self, reply: str) -> None:
        """Acknowledge what the server has forgotten to be acknowledged."""
        self.repeats.append(reply)
        if len(self.repeats) == 1:
            self.in_background(self._ack_repeats)
        self.wake()

    async def _ack_repeats(self) -> None:
        # Those that are delivered in one turn are acknowledged together.
        await asyncio.sleep(0)
        repeats, self.repeats = self.repeats, []
        await self.send((reply, b"") for reply in repeats)

    def in_background(
        self, function: Callable[..., Awaitable[None]], *arguments: Any
    ) -> asyncio.Task[None]:
        """Call a coroutine function in a task that ends with the consumer."""

        async def run() -> None:
            with contextlib.suppress(BusError):
                await function(*arguments)

        task = self.loop.create_task(run(), name="noria bus consumer")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def send(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Send acknowledgements, and wait until the server has read them."""
        link = await self.connection.get()
        await link.send((reply, payload, "") for reply, payload in messages)
        await link.round_trip()
