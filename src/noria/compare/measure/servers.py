"""The servers of one measurement: they live through its rounds, paused while others are measured.

Starting a server takes longer than measuring it, and a server that polls without sleeping would
disturb the others if it ran. Several processes of each model take turns by rounds, so that the luck
of one process (where its memory lies) is not taken for a property of the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import noria
from noria.compare.measure.child import Child, ChildFailed
from noria.compare.measure.experiment import Experiment, ServerProcess


@dataclass(frozen=True)
class Candidate:
    """A server that is measured once per round."""

    model: str
    again: bool = False
    """Whether it is a second server of its model, measured for the noise of the machine."""


def candidates(models: Iterable[str], again: int = 0) -> list[Candidate]:
    """Return one candidate per model, and a second one of `again` models.

    Those are models without threads, which wait in the kernel for many connections: the scheduler's
    and the interpreter's choices among threads would add noise that is not the machine's.
    """
    names = list(models)
    suitable = [name for name in names if _is_steady(name)] or names
    twice = [suitable[-1], suitable[0]] if len(suitable) > 1 else suitable
    return [Candidate(name) for name in names] + [
        Candidate(name, again=True) for name in twice[:again]
    ]


def _is_steady(model: str) -> bool:
    info = noria.info(model)
    return (
        info.limit != "one"
        and "thread" not in info.limit
        and info.capabilities["readiness"] != "emulated"
    )


class Servers:
    """The processes of the candidates, for the time of a ``with`` block."""

    def __init__(
        self, experiment: Experiment, candidates: Iterable[Candidate], *arguments: str
    ) -> None:
        self.experiment = experiment
        self.arguments = arguments
        self.failures: dict[tuple[Candidate, int], str] = {}
        self._starting: dict[tuple[Candidate, int], Child] = {}
        self._paused: dict[tuple[Candidate, int], ServerProcess] = {}
        self._candidates = tuple(candidates)

    def __enter__(self) -> Self:
        """Start all processes at once, and pause each when it listens."""
        try:
            slots = [
                (candidate, number)
                for candidate in self._candidates
                for number in range(self.experiment.settings.processes)
            ]
            if self.experiment.out_of_time:
                return self
            for slot in slots:
                self._start(slot)
            for slot in slots:
                with contextlib.suppress(ChildFailed):
                    self._await(slot)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        with contextlib.ExitStack() as stack:
            for child in self._starting.values():
                stack.callback(child.end)
            for server in self._paused.values():
                stack.callback(server.child.end)
            self._starting, self._paused = {}, {}

    @contextlib.contextmanager
    def running(self, candidate: Candidate, round_number: int) -> Iterator[ServerProcess]:
        """Let the candidate's server of this round run; pause it after the block.

        Raises ChildFailed. A server that fails in the block is replaced at its next turn, but one
        that could not be started is not tried again.
        """
        slot = candidate, round_number % self.experiment.settings.processes
        if slot in self.failures:
            raise ChildFailed(self.failures[slot])
        if slot not in self._paused:
            self._start(slot)
            self._await(slot)
        server = self._paused[slot]
        server.child.resume()
        try:
            yield server
        except ChildFailed:
            del self._paused[slot]
            server.child.end()
            raise
        server.child.pause()

    def _start(self, slot: tuple[Candidate, int]) -> None:
        self._starting[slot] = self.experiment.start_server(slot[0].model, *self.arguments)

    def _await(self, slot: tuple[Candidate, int]) -> None:
        child = self._starting[slot]
        try:
            server = ServerProcess.listening(child, self.experiment)
        except BaseException as failed:  # KeyboardInterrupt too: close() does not know it any more
            child.end()
            if isinstance(failed, ChildFailed):
                self.failures[slot] = str(failed)
            raise
        finally:
            del self._starting[slot]
        self._paused[slot] = server
        child.pause()
