"""Publishing: what is emitted in one turn of the loop goes to the broker together."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from noria.bus import backoff
from noria.bus.contract import Broker, Message
from noria.bus.stats import PublishStats
from noria.errors import BrokerUnavailable, BusError, EmitTimeout

log = logging.getLogger("noria.bus")

# What one call of the broker gets at most.
MAX_BATCH = 1000
MAX_BATCH_BYTES = 4 << 20


class _Pending:
    """An event whose publication is not confirmed, with who waits for it."""

    __slots__ = ("added", "confirmed", "deadline", "message", "timeout")

    def __init__(
        self, message: Message, confirmed: asyncio.Future[None], added: float, timeout: float
    ):
        self.message = message
        self.confirmed = confirmed
        self.added = added
        self.timeout = timeout
        self.deadline = added + timeout


class Publisher:
    """Coalesces publications, repeats them while the broker is away, and limits the wait."""

    def __init__(self, broker: Broker, stats: PublishStats):
        self.broker = broker
        self.stats = stats
        self.outbox: deque[_Pending] = deque()
        self.sending: list[_Pending] = []
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.problem: BusError | None = None

    def publish(self, message: Message, timeout: float) -> asyncio.Future[None]:
        """Publish a message in the next turn of the loop.

        The future ends when the broker has it; with EmitTimeout after `timeout` seconds, or with
        the BusError with which the broker refuses it.
        """
        loop = asyncio.get_running_loop()
        confirmed: asyncio.Future[None] = loop.create_future()
        pending = _Pending(message, confirmed, loop.time(), timeout)
        self.outbox.append(pending)
        if self.task is None:
            self.task = loop.create_task(self._run(), name="noria bus publisher")
        if self.timer is None:
            self.timer = loop.call_at(pending.deadline, self._expire)
        elif pending.deadline < self.timer.when():
            self.timer.cancel()
            self.timer = loop.call_at(pending.deadline, self._expire)
        return confirmed

    async def flush(self, timeout: float) -> None:
        """Wait until all is confirmed or has failed, at most `timeout` seconds."""
        if self.task is not None:
            await asyncio.wait([self.task], timeout=timeout)

    async def close(self) -> None:
        """End the task and the timer; what is not confirmed fails with EmitTimeout."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for pending in (*self.sending, *self.outbox):
            self._time_out(pending)
        self.outbox.clear()

    async def _run(self) -> None:
        failures = 0
        try:
            while self.outbox:
                batch = self._take()
                if not batch:
                    continue
                self.sending = batch
                try:
                    refused = await self.broker.publish([pending.message for pending in batch])
                except BrokerUnavailable as error:
                    failures += 1
                    self.problem = error
                    self.outbox.extendleft(reversed(batch))
                    self.sending = []
                    await asyncio.sleep(backoff.reconnect_delay(failures))
                    continue
                except Exception as error:
                    self.sending = []
                    if not isinstance(error, BusError):
                        log.exception("publishing %d events failed", len(batch))
                        error = BusError(f"publishing failed: {error!r}")
                    for pending in batch:
                        self._fail(pending, error)
                    continue
                failures = 0
                self.problem = None
                for index, reason in refused.items():
                    self._fail(batch[index], reason)
                self._confirm(batch)
        finally:
            self.task = None

    def _take(self) -> list[_Pending]:
        """Return the next batch, without those that nobody waits for any more."""
        batch: list[_Pending] = []
        size = 0
        outbox = self.outbox
        while outbox and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            pending = outbox.popleft()
            if not pending.confirmed.done():
                batch.append(pending)
                size += len(pending.message.body)
        return batch

    def _confirm(self, batch: list[_Pending]) -> None:
        """End the futures of a batch that are not yet done."""
        self.sending = []
        stats = self.stats
        stats.batches += 1
        now = asyncio.get_running_loop().time()
        for pending in batch:
            if not pending.confirmed.done():
                pending.confirmed.set_result(None)
                stats.published += 1
                stats.seconds.observe(now - pending.added)

    def _fail(self, pending: _Pending, error: BusError) -> None:
        if not pending.confirmed.done():
            self.stats.failed += 1
            pending.confirmed.set_exception(error)

    def _time_out(self, pending: _Pending) -> None:
        if not pending.confirmed.done():
            reason = self.problem or "the broker did not answer"
            error = EmitTimeout(
                f"event {pending.message.type!r}: no confirmation within {pending.timeout:g} s: "
                f"{reason}"
            )
            error.__cause__ = self.problem
            self._fail(pending, error)

    def _expire(self) -> None:
        """Fail what has waited too long, and set the timer for the rest."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.timer = None
        earliest: float | None = None
        for pending in (*self.sending, *self.outbox):
            if pending.confirmed.done():
                continue
            if pending.deadline <= now:
                self._time_out(pending)
            elif earliest is None or pending.deadline < earliest:
                earliest = pending.deadline
        if earliest is not None:
            self.timer = loop.call_at(earliest, self._expire)
