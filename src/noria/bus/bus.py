"""noria.Bus: events from and to other processes and machines."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from noria.bus import trace_context
from noria.bus.backoff import RETRY_BASE, RETRY_CAP, reconnect_delay
from noria.bus.brokers import table
from noria.bus.contract import DEFAULT_CLAIM_SECONDS, EVERY_TYPE, Lag, Message, Subscription
from noria.bus.dead_letters import DeadLetter, decode_letter
from noria.bus.dispatch import NO_GROUP, Dispatcher
from noria.bus.event import (
    DEFAULT_MAX_SIZE,
    ONLY_GROUP,
    Event,
    check_group,
    check_size,
    check_type,
    is_own_id,
    new_id,
)
from noria.bus.figures import BusFigures
from noria.bus.handler import OnHandled, Registration, check_handler
from noria.bus.publisher import Publisher
from noria.bus.reactor_feed import reactor_handler
from noria.bus.stats import PublishStats
from noria.errors import BrokerUnavailable, BusClosed, BusError, InvalidEvent

if TYPE_CHECKING:
    from noria.reactor import Reactor

log = logging.getLogger("noria.bus")

Handler = TypeVar("Handler", bound=Callable[..., object])

DEFAULT_RETRIES = 3
DEFAULT_CONCURRENCY = 100
DEFAULT_EMIT_TIMEOUT = 10.0
DEFAULT_GRACE = 30.0
# The longest time that an option takes, about 30 years: JetStream counts nanoseconds in 64 bits.
MAX_SECONDS = 1e9


class Bus:
    """Publishes events through a broker, and runs handlers for them.

    Args:
        url: ``memory:`` (this process), ``nats://HOST:4222`` (NATS JetStream) or
            ``redis://HOST:6379`` (Redis or Valkey Streams).
        concurrency: the most events that one handler has in flight, unless `on` says otherwise.
        claim: seconds until the events of a dead worker are taken over, unless `on` says otherwise.
            Handlers may run longer.
        emit_timeout: seconds that `emit` waits for the broker.
        max_event_size: bytes of an encoded event.
        source: the CloudEvents source of emitted events; None for ``//HOST/PROGRAM``.

    Nothing connects before the first `emit`, `connect` or `start`. A program that only emits ends
    with `close`; one that handles events uses `run`, or `start` and `drain`, which is also what
    ``async with`` does. A bus belongs to one event loop at a time.

    Attributes: `registrations`, what `on` has registered, each with its `stats`; `stats`, of what
    was published; `worker`, the name of this process.

    Raises InvalidBrokerURL, and ImportError if the package of the broker's client is missing.
    """

    def __init__(
        self,
        url: str = "memory:",
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        claim: float = DEFAULT_CLAIM_SECONDS,
        emit_timeout: float = DEFAULT_EMIT_TIMEOUT,
        max_event_size: int = DEFAULT_MAX_SIZE,
        source: str | None = None,
    ):
        self.url = table.parse_url(url)
        self.concurrency = _integer("concurrency", concurrency)
        self.claim = _seconds("claim", claim)
        self.emit_timeout = _seconds("emit_timeout", emit_timeout)
        self.max_event_size = _integer("max_event_size", max_event_size)
        self.source = source
        self._pid = os.getpid()
        self.worker = _worker_name()
        self.registrations: list[Registration] = []
        self.stats = PublishStats()
        self.broker = table.make(url, self.worker)
        self._figures = BusFigures(self, self.url.shown, self.stats)
        self._publisher = Publisher(self.broker, self.stats)
        self._dispatchers: dict[int, Dispatcher] = {}
        self._state: Literal["idle", "running", "draining", "closed"] = "idle"
        self._late_starts: set[asyncio.Task[None]] = set()
        self._stopped: asyncio.Event | None = None
        # Calls of handlers in threads that had not ended when their handler was drained.
        self.abandoned_threads: list[Future[object]] = []
        # Called after each run of a handler with (registration, event, seconds, error or None).
        self.on_handled: OnHandled | None = None

    # Handlers.

    def on(
        self,
        type: str,
        handler: Handler | None = None,
        *,
        group: str | None = None,
        retries: int = DEFAULT_RETRIES,
        concurrency: int | None = None,
        claim: float | None = None,
        start: Literal["oldest", "newest"] = "oldest",
        backoff: float = RETRY_BASE,
        max_backoff: float = RETRY_CAP,
    ) -> Any:
        """Call a handler for each event of a type: ``on(type, handler)``, or as a decorator.

        The handler gets the `Event`; a parameter annotated with a dataclass, a TypedDict or a
        msgspec.Struct gets its data, checked. A handler that is no coroutine function runs in a
        thread of the bus, `concurrency` of them at a time, but at most 500; an awaitable that it
        returns is awaited in the loop. When it returns, the event is acknowledged. Whatever it
        raises is a failed run, SystemExit and KeyboardInterrupt included.

        Args:
            type: of the events; ``"*"`` for all types, without a group.
            group: all processes with this group share the events, each event going to one of them.
                Without a group every process gets every event that is published while it runs.
            retries: how often a handler that raises runs again; then the event becomes a dead
                letter. After `EventRejected` it does at once.
            concurrency: the most events in flight.
            claim: seconds; see `Bus`.
            start: where a group begins that the broker does not know yet: ``"oldest"``, with the
                events that it still has, or ``"newest"``, with later ones.
            backoff: seconds, the longest delay before the first retry; it doubles with each, up to
                `max_backoff`. The delays are random (full jitter).

        Raises InvalidEvent for the type, ValueError for the group and the numbers, TypeError for
        what is no handler: a generator function, and parameters that no event fits.
        """
        if type != EVERY_TYPE:
            check_type(type)
        elif group is not None:
            raise ValueError("the type '*' is for a handler without a group")
        if group is not None:
            check_group(group)
            if any(known.type == type and known.group == group for known in self.registrations):
                raise ValueError(
                    f"group {group!r} has a handler of {type!r} already; a group shares its events "
                    "among processes: give each handler its own group"
                )
        if start not in ("oldest", "newest"):
            raise ValueError(f"start must be 'oldest' or 'newest', not {start!r}")
        subscription = Subscription(
            type,
            group,
            self.concurrency if concurrency is None else _integer("concurrency", concurrency),
            self.claim if claim is None else _seconds("claim", claim),
            start,
        )

        numbers = (
            _integer("retries", retries, 0),
            _seconds("backoff", backoff),
            _seconds("max_backoff", max_backoff),
        )

        def register(handler: Handler) -> Handler:
            check_handler(handler)
            self._register(Registration(subscription, handler, *numbers, concurrency is not None))
            return handler

        return register if handler is None else register(handler)

    def set_concurrency(self, concurrency: int) -> None:
        """Set the concurrency of the bus and of the handlers that have none of their own.

        Raises BusClosed if the bus has been started.
        """
        if self._state != "idle":
            raise BusClosed("set_concurrency comes before start")
        self.concurrency = _integer("concurrency", concurrency)
        for each in self.registrations:
            if not each.own_concurrency:
                each.subscription = replace(each.subscription, concurrency=concurrency)

    def off(self, type: str, handler: Callable[..., object]) -> None:
        """Remove a handler that `on` added; it gets no more events.

        Raises KeyError if there is none. What it has in flight is finished.
        """
        for registration in self.registrations:
            if registration.type == type and registration.handler == handler:
                self.registrations.remove(registration)
                dispatcher = self._dispatchers.pop(id(registration), None)
                # Otherwise `drain` has it.
                if dispatcher is not None and self._state == "running":
                    self._keep(self._drain_dispatcher(dispatcher, DEFAULT_GRACE))
                return
        raise KeyError(f"{handler!r} is no handler of {type!r}")

    def feed(
        self, reactor: Reactor, type: str, *, group: str | None = None, **options: Any
    ) -> None:
        """Run the handlers that a Reactor has for this type (`Reactor.on`) in the reactor's thread.

        They are called with the event's data, ``handler(**data)``. The event is acknowledged when
        all of them have returned; if one raises, it is retried with all of them. `options` are
        those of `on`.
        """
        self.on(type, reactor_handler(reactor), group=group, **options)

    # Emitting.

    def emit(
        self,
        type: str,
        /,
        *,
        key: str | None = None,
        id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
        **data: Any,
    ) -> asyncio.Future[None]:
        """Publish an event. The future that is returned ends when the broker has it: await it.

        It is published whether or not the future is awaited, unless the future is cancelled before.

        Args:
            key: events of the type with the same key are handled one after the other, in order.
            id: the broker stores one event of this type and id within its window, two minutes.
            delay: seconds until a handler may get it.
            timeout: seconds to wait for the broker; None for the `emit_timeout` of the bus.
            data: the data of the event. For bytes, and for names that are parameters here, use
                `publish`.

        Raises EventTooLarge, InvalidEvent and BusClosed; the future raises EmitTimeout, and
        BusError if the broker refuses the event.
        """
        event = Event(type, data, key=key, id=id, source=self.source)
        return self._put(event, delay, timeout)

    async def publish(
        self, *events: Event, delay: float = 0.0, timeout: float | None = None
    ) -> None:
        """Publish events, in their order, and wait until the broker has all of them.

        Raises as `emit` does, for the first event that fails, when the outcome of all is known.
        """
        waiting = [self._put(event, delay, timeout) for event in events]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    def _put(self, event: Event, delay: float, timeout: float | None) -> asyncio.Future[None]:
        if self._state == "closed":
            raise BusClosed("the bus is closed; make another one")
        if not 0 <= delay <= MAX_SECONDS:
            raise ValueError(f"delay must be 0 to {MAX_SECONDS:g} seconds, not {delay!r}")
        attributes = event.attributes
        trace_context.inject(attributes)
        body = event.encode()
        check_size(body, event.type, min(self.max_event_size, self.broker.max_size))
        id = event.id
        repeatable = not is_own_id(id)
        if repeatable:
            # Brokers know ids of all types: another type may have the same one.
            id = f"{event.type}:{id}"
        message = Message(event.type, body, id, event.key, delay, repeatable)
        if timeout is None:
            timeout = self.emit_timeout
        elif not 0 < timeout <= MAX_SECONDS:
            raise ValueError(
                f"timeout must be above 0 and up to {MAX_SECONDS:g} seconds, not {timeout!r}"
            )
        return self._publisher.publish(message, timeout)

    # Running.

    async def connect(self) -> None:
        """Connect to the broker now. Raises BrokerUnavailable with what to start, and BusClosed."""
        self._check_open()
        self._renew_worker()
        await self.broker.connect()

    async def start(self) -> None:
        """Connect and start the handlers.

        Raises BrokerUnavailable with what to start; then it may be called again.
        """
        if self._state == "running":
            return
        if self._state != "idle":
            raise BusClosed(f"the bus is {self._state}; make another one")
        self._renew_worker()
        try:
            await self.broker.connect()
            self._state = "running"
            for registration in list(self.registrations):
                await self._start_dispatcher(registration)
        except BaseException:
            dispatchers = list(self._dispatchers.values())
            self._dispatchers.clear()
            for dispatcher in dispatchers:
                await self._drain_dispatcher(dispatcher, 0)
            await self.broker.disconnect()
            self._state = "idle"
            raise
        self._figures.start(self.broker.lag)

    async def drain(self, grace: float = DEFAULT_GRACE) -> None:
        """Stop the handlers and close the bus.

        Nothing more is claimed; running handlers have `grace` seconds to end, then they are
        cancelled. What they have not handled goes back to the group. Handlers can emit meanwhile.

        Raises BusError in a handler of this bus, for which it would wait. There, `stop` ends `run`.
        """
        cancelled: asyncio.CancelledError | None = None
        if self._state == "running":
            # The dispatcher has the task of a handler when this has waited once.
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                grace, cancelled = 0, error
            caller = asyncio.current_task()
            if any(each.runs(caller) for each in self._dispatchers.values()):
                raise BusError("drain and close wait for the handlers; in a handler, call stop")
        if self._state in ("draining", "closed"):
            return
        self._state = "draining"
        try:
            dispatchers = list(self._dispatchers.values())
            await asyncio.gather(*(self._drain_dispatcher(each, grace) for each in dispatchers))
        finally:
            self._dispatchers.clear()
            await self.close()
        if cancelled is not None:
            raise cancelled

    async def close(self) -> None:
        """Publish what is still to be published, and disconnect. `drain` does this, too."""
        if self._state == "running":
            await self.drain()
            return
        if self._state == "closed":
            return
        self._state = "closed"
        try:
            for task in list(self._late_starts):
                await asyncio.wait([task])
            await self._publisher.flush(self.emit_timeout)
        finally:
            await self._figures.stop()
            await self._publisher.close()
            await self.broker.close()
            if self._stopped is not None:
                self._stopped.set()

    async def run(self, grace: float = DEFAULT_GRACE) -> None:
        """Start, handle events until `stop`, SIGTERM or cancellation (Ctrl-C), then drain."""
        loop = asyncio.get_running_loop()
        self._stopped = stopped = asyncio.Event()
        handles_signal = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if handles_signal:
            loop.add_signal_handler(signal.SIGTERM, stopped.set)
        try:
            await self.start()
            await stopped.wait()
        finally:
            try:
                await self.drain(grace)
            finally:
                if handles_signal:
                    loop.remove_signal_handler(signal.SIGTERM)

    def stop(self) -> None:
        """Make `run` drain and return."""
        if self._stopped is not None:
            self._stopped.set()

    def cancel_handlers(self) -> None:
        """Cancel the handlers that run, as if the grace of `drain` were over.

        `drain` or `stop` has been called, or is next: the events go back to their groups.
        """
        for dispatcher in self._dispatchers.values():
            dispatcher.cancel_running()

    @property
    def in_flight(self) -> int:
        """The events that are claimed and not yet acknowledged, of all handlers."""
        return sum(each.stats.in_flight for each in self.registrations)

    async def __aenter__(self) -> Bus:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.drain()

    def __repr__(self) -> str:
        return f"<noria.Bus {self.url.shown} {self._state}>"

    # Operating.

    async def lag(self) -> list[Lag]:
        """Return how far each group is behind, for each type that the broker has."""
        self._check_open()
        return await self.broker.lag()

    async def dead(
        self, *, type: str | None = None, group: str | None = None, limit: int | None = None
    ) -> list[DeadLetter]:
        """Return dead letters, the oldest first: of a type, of a group, at most `limit`."""
        found: list[DeadLetter] = []
        if limit == 0:
            return found
        async for letter in self.dead_letters(type=type, group=group):
            found.append(letter)
            if len(found) == limit:
                break
        return found

    async def dead_letters(
        self, *, type: str | None = None, group: str | None = None
    ) -> AsyncIterator[DeadLetter]:
        """Yield dead letters, the oldest first, without having all of them in memory."""
        self._check_open()
        after = ""
        while stored := await self.broker.dead_letters(after=after):
            after = stored[-1].id
            for letter in stored:
                try:
                    dead = decode_letter(letter)
                except InvalidEvent as error:
                    log.warning("%s", error)
                    continue
                if (type is None or dead.type == type) and (group is None or dead.group == group):
                    yield dead

    async def replay(self, letters: Sequence[DeadLetter], timeout: float | None = None) -> int:
        """Give dead letters to their group again, as new events with the same id; return how many.

        A letter whose body is no event cannot be replayed: raises InvalidEvent before anything is
        published. `forget` removes it.
        """
        self._check_open()
        timeout = self.emit_timeout if timeout is None else _seconds("timeout", timeout)
        events = [letter.event for letter in letters]
        waiting = []
        for letter, event in zip(letters, events, strict=True):
            event.attributes[ONLY_GROUP] = letter.group or NO_GROUP
            # A new id for the broker, which has seen the event's own.
            message = Message(event.type, event.encode(), new_id(), event.key)
            waiting.append(self._publisher.publish(message, timeout))
        await asyncio.gather(*waiting)
        await self.forget(letters)
        return len(letters)

    async def forget(self, letters: Sequence[DeadLetter]) -> None:
        """Remove dead letters."""
        self._check_open()
        if letters:
            await self.broker.forget([letter.id for letter in letters])

    def _check_open(self) -> None:
        if self._state == "closed":
            raise BusClosed("the bus is closed; make another one")

    # Dispatchers.

    def _renew_worker(self) -> None:
        """Take another name in the child of a fork."""
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self.worker = self.broker.worker = _worker_name()

    def _register(self, registration: Registration) -> None:
        if self._state in ("draining", "closed"):
            raise BusClosed(f"the bus is {self._state}; make another one")
        self.registrations.append(registration)
        self._figures.add_handler(registration.type, registration.group, registration.stats)
        if self._state == "running":
            self._keep(self._start_late(registration))

    async def _start_dispatcher(self, registration: Registration) -> None:
        dispatcher = Dispatcher(self.broker, registration, self.worker, self.on_handled)
        await dispatcher.start()
        if registration in self.registrations and self._state == "running":
            self._dispatchers[id(registration)] = dispatcher
        else:
            await self._drain_dispatcher(dispatcher, 0)

    async def _drain_dispatcher(self, dispatcher: Dispatcher, grace: float) -> None:
        try:
            await dispatcher.drain(grace)
        finally:
            self.abandoned_threads.extend(dispatcher.threads.running)

    async def _start_late(self, registration: Registration) -> None:
        """Start a handler that was registered while the bus runs."""
        failures = 0
        while registration in self.registrations and self._state == "running":
            try:
                await self._start_dispatcher(registration)
                return
            except BrokerUnavailable:
                failures += 1
                await asyncio.sleep(reconnect_delay(failures))
            except BusError:
                log.exception("subscribing to %s failed", registration.type)
                return

    def _keep(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name="noria bus")
        self._late_starts.add(task)
        task.add_done_callback(self._late_starts.discard)


def _worker_name() -> str:
    """Return HOST-PID-RANDOM, unique among all workers and restarts."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def _integer(name: str, value: Any, minimum: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer of {minimum} or more, not {value!r}")
    return value


def _seconds(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= MAX_SECONDS:
        raise ValueError(
            f"{name} must be a number of seconds above 0 and up to {MAX_SECONDS:g}, not {value!r}"
        )
    return value  # type: ignore[no-any-return]
