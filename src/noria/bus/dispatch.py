"""The policy that all brokers share: from the claim of an event to its acknowledgement.

A dispatcher serves one subscription. It never has more events claimed than the subscription's
`concurrency`. An event goes this way:

    fetch -> (waits for its key) -> ready -> running -> ack
                                               |-> nak with a delay: the broker gives it out again
                                               |-> dead letter, then ack

An event with a key, or of a subscription without a group, is retried here, without a nak: its claim
is kept, and the later events of its key wait. Acknowledgements are collected while the former ones
are on their way, and sent together.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import sys
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from time import perf_counter
from typing import Any

from noria.bus import backoff, trace_context
from noria.bus.contract import LEASE_RENEWAL_SHARE, Broker, Consumer, Delivery
from noria.bus.dead_letters import encode_letter
from noria.bus.event import KEY, ONLY_GROUP, Event, decode
from noria.bus.handler import OnHandled, Registration, runner, start_task
from noria.bus.threads import HandlerExit, HandlerThreads
from noria.errors import BrokerUnavailable, BusError, EventRejected, InvalidEvent, error_message

log = logging.getLogger("noria.bus")

# Handlers that are started in one turn of the loop.
MAX_STARTS_PER_TURN = 32
# How often an event may be given out again because its workers died, beyond its retries.
MAX_TAKEOVERS = 10
# A claim is renewed after this share of its time.
RENEWAL_SHARE = 1 / 3
# The share of a claim's time in which its event is started without renewing the claim first: the
# lease of its key's partition may end that much earlier than the claim.
STARTABLE_SHARE = 1 - LEASE_RENEWAL_SHARE
# Seconds until a cancelled handler is abandoned.
CANCEL_SECONDS = 2.0
# Seconds in which a draining dispatcher tries to send its last acknowledgements.
SETTLE_SECONDS = 5.0
# Seconds until an event is given out again whose dead letter the broker refused.
REFUSED_LETTER_DELAY = 60.0
# The value of ONLY_GROUP for consumers that have no group.
NO_GROUP = "."


class _Claim:
    """An event that this dispatcher has claimed."""

    __slots__ = (
        "attempt",
        "claimed",
        "delivery",
        "event",
        "lost",
        "span",
        "started",
        "task",
        "timer",
    )

    def __init__(self, delivery: Delivery, event: Event, claimed: float):
        self.delivery = delivery
        self.event = event
        self.attempt = delivery.attempt
        # When the claim was made or renewed, by the clock of the loop.
        self.claimed = claimed
        self.lost = False
        self.started = 0.0
        self.span: Any = None
        self.task: asyncio.Task[object] | None = None
        # The delay before a retry that happens here.
        self.timer: asyncio.TimerHandle | None = None


class Dispatcher:
    """Runs the handler of one registration."""

    def __init__(
        self,
        broker: Broker,
        registration: Registration,
        worker: str,
        on_handled: OnHandled | None = None,
    ):
        self.broker = broker
        self.registration = registration
        self.worker = worker
        self.on_handled = on_handled
        self.stats = registration.stats
        self.concurrency = registration.subscription.concurrency
        self.claim_seconds = registration.subscription.claim
        self.group = registration.group
        self.only_group = self.group or NO_GROUP
        self.threads = HandlerThreads(self.concurrency)
        self.run_handler = runner(registration.handler, self.threads)
        self.consumer: Consumer | None = None
        self.claims: dict[Delivery, _Claim] = {}
        self.ready: deque[_Claim] = deque()
        # Ready, but so old that they must be renewed first.
        self.overdue: list[_Claim] = []
        # By key: the claims that wait for the end of an earlier one.
        self.keys: dict[str, deque[_Claim]] = {}
        self.running: set[_Claim] = set()
        self.turn_scheduled = False
        self.draining = False
        self.acks: list[Delivery] = []
        self.naks: list[tuple[Delivery, float]] = []
        self.letters: list[tuple[bytes, Delivery]] = []
        self.context = contextvars.Context()
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Subscribe. Raises BrokerUnavailable."""
        self.loop = asyncio.get_running_loop()
        self.context = contextvars.copy_context()
        self.free: asyncio.Event = asyncio.Event()
        self.unsettled: asyncio.Event = asyncio.Event()
        self.unstored: asyncio.Event = asyncio.Event()
        self.idle: asyncio.Event = asyncio.Event()
        self.renewal_needed: asyncio.Event = asyncio.Event()
        self.consumer = await self.broker.subscribe(self.registration.subscription)
        name = f"noria bus {self.registration.type}"
        consumer = self.consumer
        coroutines = [self._fetch(consumer), self._settle(consumer), self._store_letters()]
        if self.group is not None:
            coroutines.append(self._renew(consumer))
        self.tasks = [self.loop.create_task(each, name=name) for each in coroutines]

    # Fetching.

    async def _fetch(self, consumer: Consumer) -> None:
        failures = 0
        while True:
            room = self.concurrency - len(self.claims)
            if room <= 0:
                self.free.clear()
                await self.free.wait()
                continue
            try:
                deliveries = await consumer.fetch(room)
            except BrokerUnavailable:
                failures += 1
                await asyncio.sleep(backoff.reconnect_delay(failures))
                continue
            except Exception:
                failures += 1
                log.exception("fetching %s failed", self.registration.type)
                await asyncio.sleep(backoff.reconnect_delay(failures))
                continue
            failures = 0
            self._accept(deliveries)
            # A fetch that finds events waiting may not suspend: let the handlers run.
            await asyncio.sleep(0)

    def _accept(self, deliveries: Iterable[Delivery]) -> None:
        now = self.loop.time()
        ready = self.ready
        claims = self.claims
        for delivery in deliveries:
            try:
                event = decode(delivery.body, delivery.attempt)
            except InvalidEvent as error:
                self._bury_invalid(delivery, now, error)
                continue
            claim = claims[delivery] = _Claim(delivery, event, now)
            attributes = event.attributes
            if ONLY_GROUP in attributes and attributes[ONLY_GROUP] != self.only_group:
                # Not by `_ack`: it has no place among the events of its key.
                self.acks.append(delivery)
                self.unsettled.set()
                continue
            key = attributes.get(KEY)
            if key is not None:
                waiting = self.keys.get(key)
                if waiting is not None:
                    waiting.append(claim)
                    continue
                self.keys[key] = deque()
            ready.append(claim)
        self.stats.in_flight = len(claims)
        if ready:
            self._schedule()

    def _bury_invalid(self, delivery: Delivery, now: float, error: InvalidEvent) -> None:
        log.error("%s: an event was not a CloudEvent and is buried: %s", self._label(), error)
        event = Event.__new__(Event)
        event.attributes, event.data, event.attempt = {}, None, delivery.attempt
        self.claims[delivery] = claim = _Claim(delivery, event, now)
        self._bury(claim, error)

    # Running.

    def _schedule(self) -> None:
        if not self.turn_scheduled:
            self.turn_scheduled = True
            self.loop.call_soon(self._turn, context=self.context)

    def _turn(self) -> None:
        """Start some of the ready events."""
        self.turn_scheduled = False
        ready = self.ready
        oldest = self.loop.time() - self.claim_seconds * STARTABLE_SHARE
        for _ in range(min(len(ready), MAX_STARTS_PER_TURN)):
            if not ready:
                break
            claim = ready.popleft()
            if claim.lost:
                self._forget(claim)
            elif claim.claimed < oldest and self.group is not None:
                # The process was stopped, or the broker away, for about as long as the claim lasts.
                self.overdue.append(claim)
                self.renewal_needed.set()
            elif claim.attempt > self.registration.retries + 1 + MAX_TAKEOVERS:
                self._bury(claim, BusError(f"given out {claim.attempt} times: its workers died"))
            else:
                self._run(claim)
        if ready:
            self._schedule()

    def _run(self, claim: _Claim) -> None:
        event = claim.event
        event.attempt = claim.attempt
        context = self.context.copy()
        if "traceparent" in event.attributes or "opentelemetry.trace" in sys.modules:
            try:
                claim.span = trace_context.enter(event, context, self.broker.url.scheme, self.group)
            except Exception:
                log.exception("%s: starting a span for %r failed", self._label(), event)
        claim.started = perf_counter()
        claim.task = task = start_task(self.run_handler(event), self.loop, context)
        if task.done():
            self._finished(claim, task)
        else:
            self.running.add(claim)
            task.add_done_callback(functools.partial(self._finished, claim))

    def _finished(self, claim: _Claim, task: asyncio.Task[object]) -> None:
        stats = self.stats
        seconds = perf_counter() - claim.started
        stats.seconds.observe(seconds)
        self.running.discard(claim)
        claim.task = None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        ctrl_c = type(error) is KeyboardInterrupt  # of a handler's own, HandlerExit is the cause
        if error is not None and type(error) is HandlerExit:
            error = error.__cause__
        if claim.span is not None or self.on_handled is not None:
            self._report(claim, seconds, error)
        if error is None:
            stats.handled += 1
            self._ack(claim)
        elif ctrl_c or (self.draining and task.cancelled()):
            self._return([claim])
        else:
            stats.failed += 1
            try:
                self._fail(claim, error)
            except Exception:
                # Without this, the claim would be renewed forever.
                log.exception("%s: %r is given out again", self._label(), claim.event)
                self._nak(claim, REFUSED_LETTER_DELAY)

    def _report(self, claim: _Claim, seconds: float, error: BaseException | None) -> None:
        """End the span of a run, and call `on_handled`; log their exceptions."""
        span, claim.span = claim.span, None
        try:
            if span is not None:
                trace_context.leave(span, error)
        except Exception:
            log.exception("%s: ending the span of %r failed", self._label(), claim.event)
        try:
            if self.on_handled is not None:
                self.on_handled(self.registration, claim.event, seconds, error)
        except Exception:
            log.exception("%s: on_handled failed for %r", self._label(), claim.event)

    def _fail(self, claim: _Claim, error: BaseException) -> None:
        """Retry the event, now or later, here or by the broker; or bury it."""
        registration = self.registration
        if claim.lost:
            # Another worker has it: its attempts count.
            self._forget(claim)
            return
        if isinstance(error, EventRejected | InvalidEvent) or claim.attempt > registration.retries:
            log.error(
                "%s: %r failed at attempt %d and is a dead letter now",
                self._label(),
                claim.event,
                claim.attempt,
                exc_info=error,
            )
            self._bury(claim, error)
            return
        delay = backoff.delay(claim.attempt, registration.backoff, registration.max_backoff)
        self.stats.retried += 1
        log.warning(
            "%s: %r failed at attempt %d of %d: %s: %s; next attempt in %.2f s",
            self._label(),
            claim.event,
            claim.attempt,
            registration.retries + 1,
            type(error).__name__,
            error_message(error),
            delay,
            exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
        )
        if self.group is not None and claim.event.key is None:
            self._nak(claim, delay)
        elif self.draining:
            self._return([claim])
        else:
            claim.attempt += 1
            claim.timer = self.loop.call_later(delay, self._retry, claim)

    def _retry(self, claim: _Claim) -> None:
        claim.timer = None
        self.ready.append(claim)
        self._schedule()

    # What becomes of a claim. Each of these lets the next event of its key start.

    def _ack(self, claim: _Claim) -> None:
        self.acks.append(claim.delivery)
        self._next_of_key(claim)

    def _nak(self, claim: _Claim, delay: float) -> None:
        self.naks.append((claim.delivery, delay))
        self._next_of_key(claim)

    def _bury(self, claim: _Claim, error: BaseException) -> None:
        letter = encode_letter(
            claim.delivery.body,
            type=claim.event.attributes.get("type"),
            group=self.group,
            error=error,
            attempts=claim.attempt,
            worker=self.worker,
        )
        self.stats.dead += 1
        self.letters.append((letter, claim.delivery))
        self.unstored.set()
        self._next_of_key(claim)

    def _forget(self, claim: _Claim) -> None:
        """Drop a claim that has ended."""
        self.stats.lost += 1
        self._release([claim.delivery])
        self._next_of_key(claim)

    def _return(self, claims: Sequence[_Claim]) -> None:
        """Give events back to the group, with those that wait for their keys, in order."""
        returned: list[_Claim] = []
        for claim in claims:
            key = claim.event.key
            returned.append(claim)
            if key is not None:
                returned += self.keys.pop(key, ())
        self.stats.returned += len(returned)
        self.naks += [(claim.delivery, 0.0) for claim in returned if not claim.lost]
        self._release([claim.delivery for claim in returned if claim.lost])
        self.unsettled.set()

    def _next_of_key(self, claim: _Claim) -> None:
        self.unsettled.set()
        key = claim.event.attributes.get(KEY)
        if key is None or key not in self.keys:
            return
        waiting = self.keys[key]
        if not waiting:
            del self.keys[key]
        elif self.draining:
            self._return([waiting.popleft()])
        else:
            self.ready.append(waiting.popleft())
            self._schedule()

    def _release(self, deliveries: Iterable[Delivery]) -> None:
        """Free the places of claims that are settled."""
        for delivery in deliveries:
            self.claims.pop(delivery, None)
        self.stats.in_flight = len(self.claims)
        self.free.set()
        if not self.claims:
            self.idle.set()

    # Settling.

    async def _settle(self, consumer: Consumer) -> None:
        failures = 0
        while True:
            await self.unsettled.wait()
            self.unsettled.clear()
            try:
                await self._settle_once(consumer)
                failures = 0
            except BrokerUnavailable:
                failures += 1
                self.unsettled.set()
                await asyncio.sleep(backoff.reconnect_delay(failures))
            except Exception:
                failures += 1
                log.exception("%s: acknowledging failed", self._label())
                self.unsettled.set()
                await asyncio.sleep(backoff.reconnect_delay(failures))

    async def _settle_once(self, consumer: Consumer) -> None:
        if self.acks:
            # Kept in the list until the broker has them.
            acks = self.acks[:]
            await consumer.ack(acks)
            del self.acks[: len(acks)]
            self._release(acks)
        while self.naks:
            delay = self.naks[0][1]
            count = 1
            while count < len(self.naks) and self.naks[count][1] == delay:
                count += 1
            naks = [delivery for delivery, _ in self.naks[:count]]
            await consumer.nak(naks, delay)
            del self.naks[:count]
            self._release(naks)

    async def _store_letters(self) -> None:
        """Store dead letters, then have their events acknowledged.

        In a task of its own: a broker without room for letters still takes acknowledgements.
        """
        failures = 0
        while True:
            await self.unstored.wait()
            self.unstored.clear()
            try:
                await self._store_letters_once()
                failures = 0
            except Exception as error:
                if not isinstance(error, BrokerUnavailable):
                    log.exception("%s: storing dead letters failed", self._label())
                elif not failures:
                    log.warning(
                        "%s: dead letters cannot be stored: %s; their events stay in flight until "
                        "they can",
                        self._label(),
                        str(error).partition("; ")[0],
                    )
                failures += 1
                self.unstored.set()
                await asyncio.sleep(backoff.reconnect_delay(failures))

    async def _store_letters_once(self) -> None:
        letters = self.letters[:]
        try:
            await self.broker.bury([letter for letter, _ in letters])
        except BrokerUnavailable:
            raise
        except BusError as error:
            log.error("%s: dead letters are tried again later: %s", self._label(), error)
            self.naks += [(delivery, REFUSED_LETTER_DELAY) for _, delivery in letters]
        else:
            self.acks += [delivery for _, delivery in letters]
        del self.letters[: len(letters)]
        self.unsettled.set()

    # Keeping claims.

    async def _renew(self, consumer: Consumer) -> None:
        """Extend the claims of events that are not settled in time."""
        interval = self.claim_seconds * RENEWAL_SHARE
        failures = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self.renewal_needed.wait()
            self.renewal_needed.clear()
            now = self.loop.time()
            # Claimed a moment after the last round: in the next one they are young enough still.
            oldest = now - interval * 0.9
            due = [claim for claim in self.claims.values() if claim.claimed < oldest]
            if not due:
                continue
            try:
                lost = await consumer.extend([claim.delivery for claim in due])
            except Exception as error:
                if not isinstance(error, BrokerUnavailable):
                    log.exception("%s: extending claims failed", self._label())
                failures += 1
                await asyncio.sleep(min(interval, backoff.reconnect_delay(failures)))
                if self.overdue:
                    self.renewal_needed.set()
                continue
            failures = 0
            for claim in due:
                claim.claimed = now
            for delivery in lost:
                self._lose(delivery)
            if self.overdue:
                self.ready.extend(self.overdue)
                self.overdue.clear()
                self._schedule()

    def _lose(self, delivery: Delivery) -> None:
        claim = self.claims.get(delivery)
        if claim is None:
            return
        claim.lost = True
        if claim.timer is not None:
            claim.timer.cancel()
            self._retry(claim)

    # Draining.

    def cancel_running(self) -> None:
        """Cancel the handlers that run; `drain` has begun, or follows."""
        self.draining = True
        for task in self._running_tasks():
            task.cancel()

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a handler runs in this task."""
        return task in self._running_tasks()

    def _running_tasks(self) -> list[asyncio.Task[object]]:
        return [claim.task for claim in self.running if claim.task is not None]

    async def drain(self, grace: float) -> None:
        """Stop: claim nothing more, give handlers `grace` seconds, return the rest to the group."""
        self.draining = True
        if self.consumer is None:
            return
        fetching, *others = self.tasks
        try:
            await _cancel([fetching])
            try:
                await self.consumer.drain()
            except BusError as error:
                log.warning("%s: %s", self._label(), error)
            self._return_waiting()
            await self._wait_for_running(grace)
            if self.claims:
                self.idle.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SETTLE_SECONDS):
                        await self.idle.wait()
        finally:
            # Also when this is cancelled: none of the tasks may outlive the bus.
            try:
                await _cancel(self._running_tasks(), CANCEL_SECONDS)
            finally:
                await _cancel(others)
                self.threads.close()
                await self.consumer.close()

    def _return_waiting(self) -> None:
        """Return the events whose handler does not run, unless an earlier one of their key does."""
        waiting = [claim for claim in self.claims.values() if claim.timer is not None]
        for claim in waiting:
            assert claim.timer is not None
            claim.timer.cancel()
            claim.timer = None
        waiting += [*self.ready, *self.overdue]
        self.ready.clear()
        self.overdue.clear()
        self._return(waiting)

    async def _wait_for_running(self, grace: float) -> None:
        if tasks := self._running_tasks():
            _, late = await asyncio.wait(tasks, timeout=grace)
            await _cancel(late, CANCEL_SECONDS)
        # Callbacks of tasks that have ended run in the next turn.
        await asyncio.sleep(0)
        abandoned = list(self.running)
        if abandoned:
            log.warning("%s: %d handlers ignore their cancellation", self._label(), len(abandoned))
            self.running.clear()
            self._return(abandoned)

    def _label(self) -> str:
        return f"{self.registration.type} ({self.group})" if self.group else self.registration.type


async def _cancel(tasks: Collection[asyncio.Task[Any]], seconds: float | None = None) -> None:
    """Cancel tasks, and wait until they have ended or the time is over."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
