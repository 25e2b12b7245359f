"""A thread that observes a session at each interval, so that a silent process delays no screen."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from noria.sight.top.session import Session, View

CLOSE_TIMEOUT = 1.0  # seconds to wait for an observation that is under way


class Poller:
    """Calls *show* with each new View, in a thread of its own, until it is closed."""

    def __init__(self, session: Session, show: Callable[[View], None]) -> None:
        self.session = session
        self._show = show
        # Work for the thread: the source's connection is used by one thread only. None: stop.
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: at exit it may still wait for a process that does not answer.
        self._thread = threading.Thread(target=self._run, name="noria top", daemon=True)

    def start(self) -> None:
        """Begin to observe."""
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Call *function* in the thread, after an observation that is under way."""
        self._work.put(function)

    def close(self) -> None:
        """Stop, and wait for the thread for at most CLOSE_TIMEOUT; it may end later."""
        self._work.put(None)
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while True:
                begun = time.monotonic()
                self._show(self.session.step())
                # At most half of the time is for observing: the screen needs the rest.
                now = time.monotonic()
                due = max(due + self.session.interval, now + now - begun)
                if not self._work_until(due):
                    return
        finally:
            self.session.close()

    def _work_until(self, due: float) -> bool:
        """Run functions of `call` until *due*; return False once `close` was called."""
        while True:
            try:
                function = self._work.get(timeout=max(due - time.monotonic(), 0))
            except queue.Empty:
                return True
            if function is None:
                return False
            function()
