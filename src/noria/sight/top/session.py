"""One process that is being observed: its newest observation, rates and history."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from noria.errors import NoriaError, error_message, os_error_reason
from noria.sight.findings import Finding, find
from noria.sight.observation import Observation
from noria.sight.process_stat import is_alive
from noria.sight.top.history import LoopHistory
from noria.sight.top.rates import LoopRates, rates

ANSWER_TIMEOUT = 2.0  # seconds until a process counts as silent, and its rings alone are read


class Source(Protocol):
    """Where observations come from. Calls block, and may be made from any one thread."""

    def observe(self) -> Observation:
        """Return the newest figures.

        Raises NoriaError or OSError if the process cannot be observed now.
        """

    def ended(self) -> bool:
        """Return whether the process has ended."""

    def dump(self, path: str) -> int:
        """Have the process write its flight recording; return the number of records."""

    def close(self) -> None:
        """Release descriptors."""


@dataclass(slots=True)
class View:
    """What is known at one moment: nothing changes it afterwards."""

    observation: Observation = field(default_factory=Observation)
    rates: dict[int, LoopRates] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    observed: bool = False  # there is an observation
    ended: bool = False
    error: str = ""  # why the newest observation failed


class Session:
    """Observes a source at each step, and keeps what the views show.

    *clock* returns seconds.
    """

    def __init__(
        self,
        source: Source,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.interval = interval
        self.histories: dict[int, LoopHistory] = {}
        self.view = View()
        self._clock = clock
        self._last_answer = clock()

    def step(self) -> View:
        """Observe once; return what is known now. Raises nothing for a process that fails."""
        last = self.view
        if last.ended:
            return last
        try:
            observation = self.source.observe()
        except (NoriaError, OSError) as error:
            self.view = replace(last, ended=self.source.ended(), error=reason(error))
        else:
            ended = not observation.answering and self.source.ended()
            if observation.answering:
                self._last_answer = self._clock()
            self.view = self._new_view(observation, last.observation if last.observed else None)
            self.view.ended = ended
        return self.view

    @property
    def seconds_since_answer(self) -> float:
        """Seconds since the newest observation."""
        return self._clock() - self._last_answer

    def history(self, loop: int) -> LoopHistory:
        """Return the history of a loop; an empty one if it was never seen."""
        return self.histories.get(loop) or LoopHistory()

    def close(self) -> None:
        """Release the source."""
        self.source.close()

    def _new_view(self, observation: Observation, before: Observation | None) -> View:
        found = rates(observation, before)
        for loop in observation.loops:
            history = self.histories.get(loop.id)
            if history is None:
                history = self.histories[loop.id] = LoopHistory()
                history.backfill(loop.samples, self.interval)
            elif loop.end > history_end(before, loop.id):
                history.append(loop, found[loop.id])
        return View(observation, found, find(observation), True)


class LiveSource:
    """A process, by its id or the path of its socket.

    Raises ClientError if it cannot be observed.
    """

    def __init__(self, target: int | str) -> None:
        from noria.sight.client import Client

        self._target = target
        self._client = Client.connect(target, timeout=ANSWER_TIMEOUT)
        try:
            self.pid = int(self._client.hello()["pid"])
            self._observer = self._client.observer()
        except BaseException:
            self._client.close()
            raise

    def observe(self) -> Observation:
        """Return the newest figures."""
        return self._observer.observe()

    def ended(self) -> bool:
        """Return whether the process has ended."""
        return not is_alive(self.pid)

    def dump(self, path: str) -> int:
        """Have the process write its flight recording; return the number of records."""
        from noria.sight.client import Client

        # A connection of its own: an answer that came too late would be mistaken for this one's.
        with Client.connect(self._target, timeout=ANSWER_TIMEOUT) as client:
            return client.dump(path)

    def close(self) -> None:
        """Close the connection."""
        self._observer.close()
        self._client.close()


def history_end(before: Observation | None, loop: int) -> int:
    """Return the end of what was observed of a loop before; 0 if it is new."""
    found = before.loops if before is not None else []
    return next((each.end for each in found if each.id == loop), 0)


def reason(error: Exception) -> str:
    """Return why an observation failed, in one line."""
    return os_error_reason(error) if isinstance(error, OSError) else error_message(error)
