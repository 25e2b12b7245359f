"""The measured processes: modules of noria.compare.loops.peers, and the shared load generator."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from noria.compare.loops.row import Place, Sample, Unavailable
from noria.compare.measure.child import Child, ChildFailed, Message

START_SECONDS = 15.0
REPLY_SECONDS = 15.0
"""For a reply, beyond the time that the request itself takes."""

PEERS = "noria.compare.loops.peers"


class LoadProcess:
    """The load generator: a process on a core of its own, started by the first request."""

    def __init__(self, core: int | None) -> None:
        self.core = core
        self._child: Child | None = None

    def request(self, command: str, takes: float = 0.0, /, **message: Any) -> Message:
        """Return the reply to a command that takes this many seconds. Raises Unavailable."""
        try:
            if self._child is None:
                self._child = Child(
                    f"{PEERS}.load", *([] if self.core is None else [str(self.core)])
                )
                self._child.receive(START_SECONDS)
            return self._child.request(REPLY_SECONDS + takes, command=command, **message)
        except ChildFailed as failed:
            if not failed.kind:  # no reply: a later one would be taken for that of a later request
                self.end()
            raise Unavailable(str(failed)) from None
        except BaseException:  # KeyboardInterrupt: likewise
            self.end()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """The process, if it runs."""
        return () if self._child is None else (self._child.process.pid,)

    def end(self) -> None:
        """End the process, which closes its connections. A second call does nothing."""
        if self._child is not None:
            child, self._child = self._child, None
            child.end()


@contextlib.contextmanager
def peer(module: str, place: Place, *arguments: str, several_cores: bool = False) -> Iterator[Peer]:
    """Run a module of PEERS on the server's core, or on both, for the time of the block.

    The process is not awaited: all of a row's processes start at the same time, on both cores.
    """
    chosen = place.cores if several_cores or place.server is None else {place.server}
    with _on_cores(place.cores):
        child = Child(f"{PEERS}.{module}", ",".join(map(str, sorted(chosen))), *arguments)
    with child:
        yield Peer(child)


@contextlib.contextmanager
def _on_cores(cores: set[int]) -> Iterator[None]:
    """Run this thread on these cores during the block, as a new process inherits them."""
    before = os.sched_getaffinity(0)
    try:
        if cores:
            os.sched_setaffinity(0, cores)
        yield
    finally:
        os.sched_setaffinity(0, before)


class Peer:
    """A measured process that replies to lines of JSON."""

    def __init__(self, child: Child) -> None:
        self.child = child

    @property
    def pid(self) -> int:
        """The process, and its process group."""
        return self.child.process.pid

    def receive(self, seconds: float = START_SECONDS) -> Message:
        """Return its next line. Raises Unavailable with its error."""
        try:
            return self.child.receive(seconds)
        except ChildFailed as failed:
            raise Unavailable(str(failed)) from None

    def request(self, takes: float, /, **message: Any) -> Message:
        """Send a line and return the reply, after this many seconds. Raises Unavailable."""
        try:
            self.child.send(message)
        except ChildFailed as failed:
            raise Unavailable(str(failed)) from None
        return self.receive(REPLY_SECONDS + takes)


def sample_of(message: Message) -> Sample:
    """Return the measurement that a process replied with."""
    return Sample(
        message["value"], message.get("busy"), message.get("waiting"), message.get("load_waiting")
    )
