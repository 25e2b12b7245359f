"""The collector: gathers the figures of this process and of its workers for each scrape."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from noria.sight.client import Client
from noria.sight.live_observer import LiveObserver, Source
from noria.sight.metrics.families import families
from noria.sight.metrics.processes import watched_descendants
from noria.sight.metrics.worker import Worker

if TYPE_CHECKING:
    from prometheus_client.core import Metric

DISCOVERY_INTERVAL = 1.0  # seconds between two searches for new workers
ANSWER_TIMEOUT = 1.0  # seconds that a scrape waits for workers


class LoopCollector:
    """A collector for a registry of prometheus_client: the loops of this process and its workers.

    `agent` is the agent of this process. `ancestor` is the process whose descendants are shown too,
    as far as they are watched: by default this one.

        prometheus_client.REGISTRY.register(LoopCollector(agent))

    `close` ends its threads.
    """

    def __init__(self, agent: Source, *, ancestor: int | None = None) -> None:
        self.agent = agent
        self.ancestor = os.getpid() if ancestor is None else ancestor
        self._lock = threading.Lock()
        self._workers: dict[int, Worker] = {}
        self._closing = threading.Event()
        self._find_workers()
        self._thread = threading.Thread(target=self._run, name="noria-metrics", daemon=True)
        self._thread.start()

    def collect(self) -> Iterator[Metric]:
        """Return the metric families as of now; workers that do not answer have older figures."""
        self._find_workers()
        with self._lock:
            workers = [(worker, worker.ask()) for worker in self._workers.values()]
        deadline = time.monotonic() + ANSWER_TIMEOUT
        shown = [worker.wait(number, deadline) for worker, number in workers]
        alive = [each for (worker, _), each in zip(workers, shown, strict=True) if not worker.gone]
        # A supervisor has no loop: its workers are shown.
        with_loops = [each for each in alive if each.loops]
        yield from families(with_loops or alive)

    def describe(self) -> Iterator[Metric]:
        """Return the families without samples: prometheus_client checks their names."""
        yield from families(())

    def close(self) -> None:
        """End the threads; nothing is collected any more."""
        self._closing.set()
        self._thread.join()
        with self._lock:
            workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            worker.close()

    def _run(self) -> None:
        while not self._closing.wait(DISCOVERY_INTERVAL):
            self._find_workers()

    def _find_workers(self) -> None:
        """Start to observe new workers; forget those that have ended."""
        own = os.getpid()
        found = watched_descendants(self.ancestor)
        with self._lock:
            if self._closing.is_set():
                return
            for pid, worker in list(self._workers.items()):
                if worker.gone:
                    del self._workers[pid]
            if own not in self._workers:
                self._workers[own] = Worker(own, lambda: LiveObserver(self.agent))
            for pid, path in found.items():
                if pid not in self._workers:
                    self._workers[pid] = Worker(pid, partial(_RemoteObserver, path))


class _RemoteObserver(LiveObserver):
    """Observes another process; `close` closes the connection too."""

    def __init__(self, path: Path) -> None:
        self._client = Client.connect(path, timeout=ANSWER_TIMEOUT)
        try:
            super().__init__(self._client)
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        super().close()
        self._client.close()
