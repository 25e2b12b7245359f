"""One process in the metrics: a thread reads its rings often enough that no record is lost."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from noria.errors import NoriaError
from noria.sight.live_observer import LiveObserver
from noria.sight.metrics.families import WorkerTotals
from noria.sight.metrics.totals import Totals

PULL_INTERVAL = 0.25  # seconds; a ring of the default size then holds 2 million records a second
FIND_LOOPS_INTERVAL = 1.0  # seconds between two searches for new loops


class Worker:
    """Observes a process in a thread. `gone` is true once it cannot be observed any more.

    `make_observer` is called in that thread.
    """

    def __init__(self, pid: int, make_observer: Callable[[], LiveObserver]) -> None:
        self.pid = pid
        self.gone = False
        self._make_observer = make_observer
        self._changed = threading.Condition()
        self._asked = 0  # observations asked for
        self._answered = 0
        self._closing = False
        self._totals = Totals()
        self._buses: list[dict[str, Any]] = []
        self._shown = WorkerTotals(pid, False, "", "", [])
        self._thread = threading.Thread(target=self._run, name=f"noria-metrics-{pid}", daemon=True)
        self._thread.start()

    def ask(self) -> int:
        """Have the thread observe the process; return a number for `wait`."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
            return self._asked

    def wait(self, number: int, deadline: float) -> WorkerTotals:
        """Return the totals when an observation is made, at `deadline` the ones before.

        `deadline` is a time of time.monotonic().
        """
        with self._changed:
            while self._answered < number and not self.gone:
                left = deadline - time.monotonic()
                if left <= 0:
                    return replace(self._shown, answering=False)
                self._changed.wait(left)
            return self._shown

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        observer: LiveObserver | None = None
        try:
            observer = self._make_observer()
            find_loops_at = time.monotonic() + FIND_LOOPS_INTERVAL
            while True:
                with self._changed:
                    if self._asked == self._answered and not self._closing:
                        self._changed.wait(PULL_INTERVAL)
                    if self._closing:
                        return
                    asked = self._asked
                try:
                    if time.monotonic() >= find_loops_at:
                        find_loops_at = time.monotonic() + FIND_LOOPS_INTERVAL
                        observer.find_loops()
                        # This makes the buses read the lag from their brokers, so that it is not
                        # old when it is scraped.
                        self._buses = observer.source.buses()
                    observer.pull()
                    if asked != self._answered:
                        self._observe(observer, asked)
                except TimeoutError:  # the process is stopped, or C code holds its GIL
                    self._show(replace(self._shown, answering=False), asked)
        except (OSError, NoriaError, ValueError):  # the process has ended
            pass
        finally:
            with self._changed:
                self.gone = True
                self._changed.notify_all()
            if observer is not None:
                observer.close()

    def _observe(self, observer: LiveObserver, asked: int) -> None:
        observation = observer.observe()
        self._totals.add(observation)
        if observation.answering:
            self._buses = observer.source.buses()
        self._show(
            WorkerTotals(
                self.pid,
                observation.answering,
                observation.noria,
                observation.python,
                copy.deepcopy(self._totals.loops),
                self._buses,
            ),
            asked,
        )

    def _show(self, totals: WorkerTotals, asked: int) -> None:
        with self._changed:
            self._shown = totals
            self._answered = asked
            self._changed.notify_all()
