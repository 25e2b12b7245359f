"""Observes a live process: this one, by its agent, or another one, by a Client."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from typing import Any, Protocol

from noria._core.recorder.reader import RingReader
from noria.errors import NoriaError
from noria.sight.observation import Observation
from noria.sight.observer import Observer
from noria.sight.ring_records import new_records

UPDATE_INTERVAL = 1.0  # seconds between two snapshots while polling
MAX_FORGOTTEN = 32  # closed loops whose figures are kept after the process has forgotten them
SILENT_RETRY = 1.0  # seconds until the next request to a process that did not answer


class Source(Protocol):
    """A source of figures: an Agent, or a Client."""

    def hello(self) -> dict[str, Any]: ...
    def ring(self, loop: int) -> int: ...
    def names(self, loop: int, after: int = 0) -> list[Any]: ...
    def snapshot(self) -> dict[str, Any]: ...
    def blocks_after(self, number: int = 0) -> list[dict[str, Any]]: ...
    def buses(self) -> list[dict[str, Any]]: ...


class LiveObserver:
    """Figures of a live process; `observe` is cheap enough to be called each second.

    Args:
        source: the agent of this process, or a Client.
        whole: whether to begin with the oldest records that are still in the rings.

    While the process does not answer, because C code holds its GIL or because it is stopped, the
    rings are read all the same, and the observation says that it is silent.
    """

    def __init__(self, source: Source, *, whole: bool = True) -> None:
        self.source = source
        self.observer = Observer(live=True)
        self._whole = whole
        self._readers: dict[int, RingReader] = {}
        self._dropped: dict[int, int] = {}
        self._forgotten: deque[int] = deque()
        self._block = 0
        self._snapshot_time = 0
        self._answered = time.monotonic_ns()
        self._retry_at = 0.0
        self._next_update = 0.0
        self._update()

    def observe(self) -> Observation:
        """Return the figures until now.

        Raises OSError if the process has ended or closed the connection.
        """
        if time.monotonic() >= self._retry_at:
            self._update()
        now = time.monotonic_ns()
        self.pull()
        if self.observer.answering:
            try:
                self._add_names()
            except TimeoutError:
                self._not_answering()
        self.observer.silent = 0 if self.observer.answering else now - self._answered
        return self.observer.observe(now)

    def poll(self) -> None:
        """Read what is new, without computing figures: called often, it prevents lost records."""
        if time.monotonic() >= self._next_update:
            self._next_update = time.monotonic() + UPDATE_INTERVAL
            self._update()
        self.pull()

    def read_all(self) -> None:
        """Request and read what there is now, before the process frees rings of closed loops."""
        self._update()
        self.pull()
        self._add_names()

    def pull(self) -> None:
        """Read the new records of the rings, often enough that none is overwritten before."""
        for number, reader in self._readers.items():
            self._pull_from(number, reader)

    def _pull_from(self, number: int, reader: RingReader) -> None:
        for records in new_records(reader):
            dropped = reader.dropped - self._dropped[number]
            self._dropped[number] = reader.dropped
            if records or dropped:
                self.observer.feed_ring(number, records, dropped)

    def find_loops(self) -> None:
        """Request the loops: map the rings of new ones, unmap those that the process has released.

        `observe` does it too. Raises TimeoutError if the process does not answer, OSError if it has
        ended.
        """
        hello = self.source.hello()
        self.observer.feed_process({key: hello[key] for key in hello if key != "loops"})
        for loop in hello["loops"]:
            self._add_loop(loop)
        for number in self._readers.keys() - {loop["id"] for loop in hello["loops"]}:
            with contextlib.closing(self._readers.pop(number)) as reader:
                self._pull_from(number, reader)
            self.observer.feed_loop({"id": number, "closed": True})
            self._forgotten.append(number)
            if len(self._forgotten) > MAX_FORGOTTEN:
                self.observer.loops.pop(self._forgotten.popleft(), None)

    def close(self) -> None:
        """Free the mapped rings. The source stays open."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    def _update(self) -> None:
        """Request new loops, a snapshot and blocks."""
        try:
            self.find_loops()
            self._add_names()
            snapshot = self.source.snapshot()
            if snapshot["time"] != self._snapshot_time:
                self._snapshot_time = snapshot["time"]
                # Before the snapshot, as it is about the connections that are open by then.
                self.pull()
                self.observer.feed_snapshot(snapshot)
            for block in self.source.blocks_after(self._block):
                self._block = max(self._block, block["number"])
                if block["loop"] in self.observer.loops:
                    self.observer.feed_block(block["loop"], block)
        except TimeoutError:
            self._not_answering()
        else:
            self._answered = time.monotonic_ns()
            self.observer.answering = True

    def _not_answering(self) -> None:
        self.observer.answering = False
        self._retry_at = time.monotonic() + SILENT_RETRY

    def _add_loop(self, loop: dict[str, Any]) -> None:
        number = loop["id"]
        self.observer.feed_loop(loop)
        if number in self._readers:
            return
        try:
            fd = self.source.ring(number)
        except (NoriaError, ValueError):
            return  # released meanwhile
        try:
            reader = RingReader(fd)
        finally:
            os.close(fd)
        if not self._whole:
            reader.skip()
        self._readers[number] = reader
        self._dropped[number] = reader.dropped

    def _add_names(self) -> None:
        for number in self._readers:
            try:
                names = self.source.names(number, self.observer.loop(number).names.count)
            except (NoriaError, ValueError):
                continue  # released meanwhile
            self.observer.feed_names(number, names)
