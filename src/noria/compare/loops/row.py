"""A row of a comparison of event loops: what is measured, and one measurement of it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Protocol

from noria.compare.noise import NoiseMeter


class Unavailable(Exception):
    """A loop cannot be measured in a row; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: its value, and how the server and load used their cores.

    The shares are of the elapsed time of the measurement, and None if they were not measured.
    """

    value: float
    busy: float | None = None  # the measured process ran
    waiting: float | None = None  # it was runnable but waited for the core
    load_waiting: float | None = None  # as `waiting`, for the load
    last: float | None = None  # between the last byte of an upload and the response


class Clients(Protocol):
    """The load of a row, in a process of its own: see process.LoadProcess."""

    @property
    def pids(self) -> tuple[int, ...]: ...

    def request(self, command: str, takes: float = 0.0, /, **message: Any) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """The cores, duration and directory of a measurement. A core of None pins no process."""

    server: int | None  # core of the measured process
    load: int | None  # core of the load generator
    seconds: float
    scratch: Path  # temporary directory for sockets, certificates and files
    fresh: bool = False  # measure servers before any connection has ended
    warmup: float = 0.2  # seconds of load before a measurement
    clients: Clients | None = None  # the load that all rows share
    meter: NoiseMeter | None = None  # watches the cores during measurements

    @property
    def cores(self) -> set[int]:
        """Both cores; an empty set if no process is pinned."""
        return {core for core in (self.server, self.load) if core is not None}


@dataclass(frozen=True, slots=True)
class Subject:
    """One loop in one row, ready to be measured several times."""

    measure: Callable[[], Sample]
    pid: int | None = None
    """A process that is stopped (SIGSTOP) while other loops are measured."""

    prepare: Callable[[], object] = lambda: None
    """Called once, before the first measurement: waits until the process is ready."""

    def pause(self) -> None:
        """Stop the process."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # the next measurement reports its end
                os.kill(self.pid, number)


Start = Callable[[str, Place], AbstractContextManager[Subject]]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison between loops.

    `start` takes the name of a loop and returns the context manager of a Subject: a server that
    runs for the time of the block, for example. Both it and Subject.measure raise Unavailable if
    the loop does not support the row.
    """

    name: str
    start: Start = field(repr=False)
    unit: str = "/s"
    less: bool = False  # lower is better
    driven: bool = True  # by a load generator, which must not be the limit
    interleaved: bool = True  # else all rounds of a loop, then all rounds of the next one
    group: str = ""  # of rows that are shown together
    title: str = ""
    about: str = ""  # what is measured, in a sentence

    def applies_to(self, loop: str) -> bool:
        """Return whether the loop has this row."""
        return True

    def gain(self, mine: float, other: float) -> float:
        """Return how many times better one value is than another; above 1 is better."""
        return other / mine if self.less else mine / other


P = ParamSpec("P")


def one_shot(measure: Callable[P, Sample]) -> Callable[P, AbstractContextManager[Subject]]:
    """Decorate a measurement that starts and ends its own processes: it becomes a row's `start`."""

    @contextlib.contextmanager
    def start(*arguments: P.args, **options: P.kwargs) -> Iterator[Subject]:
        yield Subject(lambda: measure(*arguments, **options))

    return start
