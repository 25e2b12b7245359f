"""Delayed events: they wait in a stream of their own until a worker finds them due and moves them.

JetStream before 2.12 has no scheduled messages. The one durable consumer of the stream puts off
what is not due by a nak with a delay. What is due is stored in the stream of the events, with the
id that makes a second copy of it impossible, before it is removed here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from noria.bus.backoff import reconnect_delay
from noria.bus.brokers.nats import durable
from noria.bus.brokers.nats.connection import APIError, Connection, Link
from noria.bus.brokers.nats.names import Names
from noria.errors import BrokerUnavailable, BusError

log = logging.getLogger("noria.bus")

# The header with the time at which the event is due, in seconds since 1970.
DUE = "Noria-Due"
MESSAGE_ID = "Nats-Msg-Id"
CONSUMER = "due"
# Seconds until another worker repeats what one has not finished moving.
CLAIM_SECONDS = 10.0
BATCH = 200
PULL_SECONDS = 30.0
# Events are moved that are due within this time.
EARLY_SECONDS = 0.005


class DelayMover:
    """Moves delayed events when they are due, as one of all workers that do."""

    def __init__(self, connection: Connection, names: Names):
        self.connection = connection
        self.names = names

    async def run(self) -> None:
        """Move events until cancelled."""
        failures = 0
        while True:
            try:
                link = await self.connection.get()
                await self._serve(link)
            except BrokerUnavailable:
                failures += 1
            except (APIError, BusError) as error:
                failures += 1
                log.warning("delayed events: %s", error)
            else:
                failures = 0
            await asyncio.sleep(reconnect_delay(failures) if failures else 0.1)

    async def _serve(self, link: Link) -> None:
        names = self.names
        subject = f"{names.prefix}.d.>"
        queue: asyncio.Queue[Any] = asyncio.Queue()
        inbox = f"{link.inbox}-delays"
        subscription = await link.subscribe(inbox, queue.put)

        def wake() -> None:
            queue.put_nowait(None)

        link.loss_callbacks.add(wake)
        try:
            while link.lost is None:
                # Before each pull: the stream may have been deleted meanwhile.
                await durable.ensure(link, names.delayed, CONSUMER, subject, CLAIM_SECONDS)
                await self._pull(link, inbox, queue)
        finally:
            link.loss_callbacks.discard(wake)
            await link.unsubscribe(subscription)

    async def _pull(self, link: Link, inbox: str, queue: asyncio.Queue[Any]) -> None:
        """Pull once, and handle what comes until the pull is over."""
        request = {"batch": BATCH, "expires": int(PULL_SECONDS * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.names.delayed}.{CONSUMER}"
        await link.send([(subject, json.dumps(request).encode(), inbox)])
        left = BATCH
        end = link.loop.time() + PULL_SECONDS + 1.0
        while left > 0:
            try:
                async with asyncio.timeout_at(end):
                    messages = [await queue.get()]
            except TimeoutError:
                return
            while not queue.empty():
                messages.append(queue.get_nowait())
            found = [each for each in messages if each is not None and self._is_event(each)]
            left -= len(found)
            await self._handle(link, found)
            if len(found) < len(messages):
                # A status: the pull is over, or was refused.
                if not found:
                    await asyncio.sleep(0.1)
                return

    @staticmethod
    def _is_event(message: Any) -> bool:
        return bool(message.reply.startswith("$JS.ACK."))

    async def _handle(self, link: Link, messages: list[Any]) -> None:
        now = time.time()
        due = []
        later: list[tuple[str, bytes, str]] = []
        for message in messages:
            left = _due(message.headers) - now
            if left <= EARLY_SECONDS:
                due.append(message)
            else:
                later.append((message.reply, b'-NAK {"delay": %d}' % int(left * 1e9), ""))
        if later:
            await link.send(later)
        if not due:
            return
        answers = await link.exchange(
            [
                (
                    self.names.due(message.subject),
                    message.data,
                    {MESSAGE_ID: message.headers[MESSAGE_ID]} if message.headers else None,
                )
                for message in due
            ]
        )
        # What was refused is repeated when its claim ends.
        stored = [
            message
            for message, answer in zip(due, answers, strict=True)
            if answer is not None and not answer.startswith(b'{"error"')
        ]
        await link.send([(message.reply, b"", "") for message in stored])
        await link.round_trip()


def _due(headers: dict[str, str] | None) -> float:
    try:
        return float((headers or {}).get(DUE, "0"))
    except ValueError:
        return 0.0
