"""The observer: from records, names, snapshots and blocks to an Observation.

It takes what a recording, a live process or this process gives, in any order in which a loop's
`feed_loop` comes before its records, and `observe` may be called at any time.
"""

from __future__ import annotations

from typing import Any

from noria._core.recorder.analysis import Analysis
from noria.errors import RecordingError
from noria.sight.json_values import dictionaries, fill, integer
from noria.sight.loop_observer import Limits, LoopObserver
from noria.sight.observation import Observation

RECORDED = Limits(tasks=10_000, connections=10_000, samples=2000, keep_latest=False)
LIVE = Limits(tasks=1000, connections=1000, samples=600, keep_latest=True)


class Observer:
    """Collects what is known of a process.

    Args:
        live: keep the samples of the last ten minutes and fewer ended tasks, so that `observe` is
            cheap enough for each second; else samples cover everything.
    """

    def __init__(self, *, live: bool = False) -> None:
        self._limits = LIVE if live else RECORDED
        self.process: dict[str, Any] = {}
        self.loops: dict[int, LoopObserver] = {}
        self.answering = True
        self.silent = 0
        self.ended = False  # a recording's end was there
        self._recorded_until = 0  # CLOCK_MONOTONIC in ns; a loop that waits writes no records

    def feed_process(self, process: dict[str, Any]) -> None:
        """Take pid, command, python, noria, max_block; before the loops."""
        self.process.update(process)

    @property
    def max_block(self) -> int:
        """The limit for a turn in ns."""
        return integer(self.process.get("max_block")) or 100_000_000

    def feed_loop(self, loop: dict[str, Any]) -> None:
        """Take a loop: id, model, thread_name, thread_native_id, header. A known one is updated.

        Raises RecordingError if the header is damaged.
        """
        number = loop.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise RecordingError(f"a loop without an id: {loop!r:.200}")
        known = self.loops.get(number)
        if known is not None:
            known.update(loop)
            return
        header = loop.get("header")
        if not isinstance(header, dict):
            raise RecordingError(f"loop {number} has no header of its ring")
        limits = self._limits
        analysis = Analysis(
            header,
            max_block=self.max_block,
            max_samples=limits.samples,
            keep_latest=limits.keep_latest,
        )
        self.loops[number] = LoopObserver(number, analysis, limits)
        self.loops[number].update(loop)

    def loop(self, number: Any) -> LoopObserver:
        """Return what is known of a loop. Raises RecordingError if `feed_loop` was not called."""
        found = self.loops.get(number) if isinstance(number, int) else None
        if found is None:
            raise RecordingError(f"loop {number!r:.50} is not known")
        return found

    def feed_ring(self, loop: int, records: bytes | memoryview, dropped: int = 0) -> None:
        """Take the next records of a loop; *dropped* are missing before them."""
        found = self.loop(loop)
        if dropped:
            found.drop(dropped)
        found.analysis.feed(records)

    def feed_names(self, loop: int, names: list[Any]) -> None:
        """Take names as Recorder.names_after returns them. Raises RecordingError."""
        if not isinstance(names, list):
            raise RecordingError(f"not a list of names: {names!r:.200}")
        self.loop(loop).names.add(names)

    def feed_snapshot(self, snapshot: dict[str, Any]) -> None:
        """Take a snapshot: see noria.sight.snapshot. Loops that are not known are skipped."""
        time = integer(snapshot.get("time"))
        loops = dictionaries(snapshot.get("loops"))
        for each in loops:
            number = each.get("id")
            if isinstance(number, int) and number in self.loops:
                self.loops[number].take_snapshot(each, time, alone=len(loops) == 1)

    def feed_block(self, loop: int, block: dict[str, Any]) -> None:
        """Take a block of the watchdog; one with the same `started` replaces it."""
        self.loop(loop).take_block(block)

    def feed_error(self, loop: int, error: dict[str, Any]) -> None:
        """Take an error with the field names of ErrorFigures."""
        self.loop(loop).take_errors([error])

    def feed_object(self, value: dict[str, Any]) -> None:
        """Take an object of a recording: see recording.py. Raises RecordingError."""
        what = value.get("what")
        if what == "process":
            self.feed_process(value)
        elif what == "loop":
            self.feed_loop(value)
        elif what == "snapshot":
            self.feed_snapshot(value)
            self._recorded_until = max(self._recorded_until, integer(value.get("time")))
        elif what == "names":
            self.feed_names(value.get("loop", 0), value.get("names", []))
        elif what == "block":
            self.feed_block(value.get("loop", 0), value)
        elif what == "error":
            self.feed_error(value.get("loop", 0), value)
        elif what == "dropped":
            self.loop(value.get("loop", 0)).drop(integer(value.get("count")))
        elif what == "loops_lost":
            self.process["loops_lost"] = integer(self.process.get("loops_lost")) + integer(
                value.get("count")
            )
        elif what == "end":
            self.ended = True
            self._recorded_until = max(self._recorded_until, integer(value.get("time")))

    def observe(self, now: int = 0) -> Observation:
        """Return all figures.

        *now* (CLOCK_MONOTONIC in ns, read before the last records were pulled) says until when the
        records are complete; 0: until the last record of any loop, or the last snapshot or the end
        of a recording.
        """
        observation = Observation(
            answering=self.answering, silent=self.silent, max_block=self.max_block
        )
        fill(observation, self.process, "pid", "command", "python", "noria", "loops_lost")
        for loop in self.loops.values():
            if now:
                loop.analysis.advance(now)
            elif loop.analysis.running:
                loop.analysis.advance(self._recorded_until)
            observation.now = max(observation.now, loop.analysis.now)
        for loop in self.loops.values():
            figures = loop.figures()
            observation.loops.append(figures)
            if figures.end and figures.end == observation.now:
                observation.realtime = figures.end + loop.realtime_offset
        observation.loops.sort(key=lambda figures: figures.id)
        return observation
