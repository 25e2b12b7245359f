"""One process that runs a bus: its signals, its loop, and its shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any

from noria.aio.run import new_event_loop
from noria.bus.backoff import reconnect_delay
from noria.bus.bus import Bus
from noria.cli.broker_url import quiet_connection
from noria.cli.errors import INTERRUPTED_STATUS
from noria.cli.work.options import WorkOptions
from noria.cli.work.output import TextOutput
from noria.cli.work.totals import WorkTotals
from noria.errors import BrokerUnavailable

log = logging.getLogger("noria.bus")

# Seconds that a worker has to return its events after the second Ctrl-C.
AT_ONCE_SECONDS = 1.0
# Seconds that threads of cancelled handlers have to end.
THREAD_SECONDS = 1.0
# Seconds that cancelled tasks have to end.
TASK_SECONDS = 3.0

KILLED = (
    b"noria: a handler does not end: killed; its events are given out again when their claims end\n"
)


class Worker:
    """Runs a bus until a signal.

    `supervised`: the process has a supervisor, which handles Ctrl-C. Then SIGTERM drains, and
    SIGQUIT ends at once; the SIGINT that a terminal sends to all its processes is ignored.
    `patient`: wait for a broker that cannot be reached.
    """

    def __init__(
        self,
        bus: Bus,
        options: WorkOptions,
        output: TextOutput,
        *,
        supervised: bool = False,
        patient: bool = False,
    ):
        self.bus = bus
        self.options = options
        self.output = output
        self.supervised = supervised
        self.patient = patient
        self.stopping = False
        self.interrupted = False
        # Whether threads of handlers did not end.
        self.abandoned_threads = False
        # The number of tasks that ignored their cancellation.
        self.abandoned_tasks = 0
        self.began = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_requested: asyncio.Event | None = None
        self._killer: threading.Timer | None = None

    def run(self, ready: Callable[[str], object]) -> WorkTotals:
        """Run the bus; call `ready` with the loop's model when the handlers are subscribed.

        Raises BrokerUnavailable and other BusErrors from the start.
        """
        if self.options.verbose:
            self.bus.on_handled = self.output.handled
        old_handlers = self._handle_signals()
        runner = asyncio.Runner(loop_factory=lambda: new_event_loop(self.options.model))
        try:
            runner.get_loop()  # raises for a model that does not work here
            runner.run(self._main(ready))
        finally:
            if self._killer is not None:
                self._killer.cancel()
            if not self.abandoned:
                runner.close()
            for number, handler in old_handlers.items():
                signal.signal(number, handler)
        totals = WorkTotals.of(self.bus)
        totals.abandoned = self.abandoned_tasks
        return totals

    @property
    def abandoned(self) -> bool:
        """Whether threads or tasks did not end; the process must not wait for them."""
        return self.abandoned_threads or self.abandoned_tasks > 0

    async def _main(self, ready: Callable[[str], object]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._stop_requested = stop = asyncio.Event()
        if self.stopping:
            stop.set()
        starting = loop.create_task(self._start())
        waiting = loop.create_task(_wait(stop))
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            return
        starting.result()
        self.began = time.monotonic()
        ready(str(getattr(loop, "model_name", self.options.model)))
        running = loop.create_task(self.bus.run(self.options.grace))
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            if not self.supervised:
                self.output.stopping(self.bus.in_flight, self.options.grace)
            self.bus.stop()
        waiting.cancel()
        await asyncio.wait([waiting])
        try:
            await running
        finally:
            await self._end_tasks()
        ending = loop.create_task(self._end_threads())
        _, pending = await asyncio.wait([ending], timeout=THREAD_SECONDS)
        if pending:
            log.warning("handlers still run in threads, which cannot be cancelled: abandoned")
            self.abandoned_threads = True

    async def _end_tasks(self) -> None:
        """Cancel all tasks, as the runner would, but do not wait for those that ignore it."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        _, pending = await asyncio.wait(tasks, timeout=TASK_SECONDS)
        if pending:
            names = sorted({getattr(task.get_coro(), "__qualname__", "?") for task in pending})
            log.error(
                "tasks ignore their cancellation and are abandoned (%d): %s",
                len(pending),
                ", ".join(names),
            )
            self.abandoned_tasks = len(pending)

    async def _end_threads(self) -> None:
        """Wait for the threads of handlers, and for those of the loop's executor."""
        if self.bus.abandoned_threads:
            await asyncio.to_thread(wait, self.bus.abandoned_threads)
        await asyncio.get_running_loop().shutdown_default_executor()

    async def _start(self) -> None:
        if not self.patient:
            with quiet_connection():
                await self.bus.connect()
        failures = 0
        while True:
            try:
                await self.bus.start()
                return
            except BrokerUnavailable:
                if not self.patient:
                    raise
                failures += 1
                await asyncio.sleep(reconnect_delay(failures))

    # Signals.

    def _handle_signals(self) -> dict[int, Any]:
        """Install the handlers; return the former ones.

        They are Python's, not the loop's: they run while a handler blocks the loop, too.
        """
        handlers: dict[int, Any] = {signal.SIGTERM: self._drain, signal.SIGINT: self._interrupt}
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            handlers[signal.SIGHUP] = self._drain
        if self.supervised:
            handlers[signal.SIGINT] = signal.SIG_IGN
            handlers[signal.SIGQUIT] = self._end_at_once
        return {number: signal.signal(number, each) for number, each in handlers.items()}

    def _drain(self, *_: object) -> None:
        self.stopping = True
        if self._loop is not None and self._stop_requested is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stop_requested.set)

    def _interrupt(self, *_: object) -> None:
        """Ctrl-C: the first one drains, the second one ends at once, a third one kills."""
        if not self.stopping:
            self._drain()
        elif not self.interrupted:
            self._end_at_once()
        else:
            _kill()

    def _end_at_once(self, *_: object) -> None:
        self._drain()
        self.interrupted = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.bus.cancel_handlers)
        if self._killer is None:
            self._killer = threading.Timer(AT_ONCE_SECONDS, _kill)
            self._killer.daemon = True
            self._killer.start()


def _kill() -> None:
    """End the process: a handler does not let it end in an orderly way."""
    with contextlib.suppress(OSError):
        os.write(2, KILLED)
    os._exit(INTERRUPTED_STATUS)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
