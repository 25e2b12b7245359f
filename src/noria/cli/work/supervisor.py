"""Several processes that run one bus."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from noria.cli.work.output import TextOutput
from noria.cli.work.totals import WorkTotals
from noria.servers.config import OnReady
from noria.servers.supervisor import LISTENING, Supervisor


class WorkSupervisor(Supervisor[WorkTotals]):
    """Supervises workers that run a bus.

    The first SIGTERM or Ctrl-C drains them; the second Ctrl-C ends them at once, a third kills.
    """

    def __init__(
        self, serve: Callable[[OnReady], WorkTotals], output: TextOutput, grace: float
    ) -> None:
        super().__init__(serve, WorkTotals())
        self.output = output
        self.grace = grace
        self.interrupts = 0
        self.began = time.monotonic()

    def start_first(self) -> int | None:
        """Start the first worker, and wait until it is ready.

        Returns its exit status if it ended instead, after it printed its error.
        """
        self.start_worker()
        if not self.workers:
            return 0
        pid, worker = next(iter(self.workers.items()))
        if os.read(worker.pipe, len(LISTENING)):
            self.began = time.monotonic()
            return None
        _, status = os.waitpid(pid, 0)
        self.collect(pid)
        return os.waitstatus_to_exitcode(status)

    def report_exit(self, pid: int, how: str) -> None:
        self.output.worker_ended(pid, how)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        if not self.stopping:
            self.stopping = True
            # A signal may come in the middle of a write to standard output.
            with contextlib.suppress(RuntimeError):
                self.output.stopping(None, self.grace)
            self.signal_workers(signal.SIGTERM)
        elif number == signal.SIGINT:
            self.signal_workers(signal.SIGQUIT if self.interrupts < 3 else signal.SIGKILL)
        else:
            self.signal_workers(signal.SIGTERM)
