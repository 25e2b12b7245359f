"""A loop that the agent watches: its recorder, its errors and its executors."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from noria._core.recorder.reader import RingReader
from noria.sight.collections_seen import CollectionsSeen
from noria.sight.errors_seen import ErrorsSeen
from noria.sight.executors_seen import ExecutorsSeen

if TYPE_CHECKING:
    from noria._core.recorder.ring import Recorder


class WatchedLoop:
    """A loop with the recorder that is attached to it. `id` is 0, 1, … in the agent's order."""

    def __init__(self, number: int, loop: Any, recorder: Recorder) -> None:
        self.id = number
        self.model = str(loop.model.name)
        self.recorder = recorder
        self.errors = ErrorsSeen()
        self.collections = CollectionsSeen()
        self.executors = ExecutorsSeen()
        self.released = False
        self.was_read = False  # a recording or the search for findings has its records
        # The ids of the tasks that had not ended when the loop was closed; None: it was not, or is
        # not an asyncio loop.
        self.tasks_left: list[int] | None = None
        self.thread_name = ""
        self.thread_native_id = 0
        self.thread_ident = 0
        try:
            self._reference: Any = weakref.ref(loop)
        except TypeError:  # a loop without asyncio: alive until it is closed
            self._reference = lambda: loop

    @property
    def loop(self) -> Any:
        """The loop; None if it is closed or was deleted."""
        loop = self._reference()
        if loop is not None and loop.closed:
            self._reference = lambda: None
            return None
        return loop

    def description(self, header: dict[str, Any]) -> dict[str, Any]:
        """Return the loop as recordings and the live protocol describe it.

        *header* is RingReader.header() of its ring.
        """
        return {
            "id": self.id,
            "model": self.model,
            "thread_name": self.thread_name,
            "thread_native_id": self.thread_native_id,
            "header": header,
        }

    def note_running_thread(self) -> None:
        """Store the thread that runs the loop now, as the ring names it."""
        with contextlib.closing(RingReader(self.recorder.fd)) as reader:
            ident = reader.header()["thread_ident"]
        for thread in threading.enumerate():
            if thread.ident == ident:
                self.note_thread(thread)

    def note_thread(self, thread: threading.Thread) -> None:
        """Store a thread as the one that runs the loop."""
        self.thread_name = thread.name
        self.thread_native_id = thread.native_id or 0
        self.thread_ident = thread.ident or 0

    def note_close(self, tasks: Iterable[Any]) -> None:
        """Store the tasks that have not ended, as the loop is about to be closed."""
        self.tasks_left = [id(task) for task in tasks]

    def detach(self) -> None:
        """Have the loop record nothing more."""
        loop = self._reference()
        if loop is not None and loop.recorder is self.recorder:
            loop.detach_recorder()

    def release(self) -> None:
        """Detach the recorder from the loop and close it."""
        if not self.released:
            self.released = True
            self.detach()
            self.recorder.close()
