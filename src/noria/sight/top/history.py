"""Figures of the last intervals, for sparklines."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from noria.sight.observation import LoopFigures, Sample
from noria.sight.top.rates import NS, LoopRates, connection_key, task_key

LENGTH = 400  # intervals; wider than any terminal's sparkline
ROW_LENGTH = 120  # intervals kept of each task and connection,
CROWDED_LENGTH = 12  # and in a program with more of them than
CROWD = 2000

# By TaskKey or ConnectionKey: (number of the interval, busy or bytes in, steps or bytes out) of the
# intervals in which it was active.
ActiveRows = dict[tuple[int, int], deque[tuple[int, float, float]]]


@dataclass(slots=True)
class Point:
    """The figures of one interval of a loop. Durations in ns, rates each second."""

    utilization: float
    events: float
    calls_per_event: float
    turn_longest: int
    delay_longest: int
    lateness_longest: int
    bytes_in: float
    bytes_out: float
    gc: float  # share: 0 to 1
    jobs: float
    files: float


class LoopHistory:
    """The last intervals of one loop, and of its tasks and connections."""

    def __init__(self) -> None:
        self.points: deque[Point] = deque(maxlen=LENGTH)
        self.intervals = 0
        self.tasks: ActiveRows = {}
        self.connections: ActiveRows = {}

    def backfill(self, samples: list[Sample], seconds: float) -> None:
        """Begin with what was recorded before the first observation, at *seconds* a point."""
        merged: list[Sample] = []
        for sample in samples:
            if merged and merged[-1].end - merged[-1].begin < seconds * NS * 0.9:
                _add(merged[-1], sample)
            else:
                merged.append(_copy(sample))
        self.points.extend(_point_of_sample(sample) for sample in merged)

    def append(self, loop: LoopFigures, rates: LoopRates) -> None:
        """Add an interval."""
        self.intervals += 1
        self.points.append(
            Point(
                rates.utilization,
                rates.events,
                rates.calls_per_event,
                rates.turn.longest,
                rates.queue_delay.longest,
                rates.lateness.longest,
                rates.bytes_in,
                rates.bytes_out,
                rates.gc_share,
                rates.jobs,
                rates.files,
            )
        )
        tasks = {key: (task.busy, task.steps) for key, task in rates.tasks.items()}
        alive = {task_key(task) for task in loop.tasks}
        self._append_rows(self.tasks, tasks, alive)
        moved = {key: (each.bytes_in, each.bytes_out) for key, each in rates.connections.items()}
        opened = {connection_key(each) for each in loop.connections}
        self._append_rows(self.connections, moved, opened)

    def series(self, name: str, count: int) -> list[float]:
        """Return the last *count* values of a figure of the loop, the newest last."""
        points = list(self.points)[-count:] if count > 0 else []
        return [float(getattr(point, name)) for point in points]

    def row(self, rows: ActiveRows, key: tuple[int, int]) -> list[list[float]]:
        """Return both figures of a task or connection over the last intervals."""
        length = min(self.intervals, ROW_LENGTH)
        found = [[0.0] * length, [0.0] * length]
        # A copy: the thread that observes may append meanwhile.
        for interval, first, second in list(rows.get(key, ())):
            position = interval - self.intervals + length - 1
            if position >= 0:
                found[0][position], found[1][position] = first, second
        return found

    def _append_rows(
        self,
        rows: ActiveRows,
        active: dict[tuple[int, int], tuple[float, float]],
        alive: set[tuple[int, int]],
    ) -> None:
        for key in rows.keys() - alive:
            del rows[key]
        length = ROW_LENGTH if len(alive) <= CROWD else CROWDED_LENGTH
        for key, (first, second) in active.items():
            row = rows.get(key)
            if row is None or row.maxlen != length:
                row = rows[key] = deque(row or (), maxlen=length)
            row.append((self.intervals, first, second))


def _copy(sample: Sample) -> Sample:
    whole = Sample(sample.begin, sample.begin)
    _add(whole, sample)
    return whole


def _add(whole: Sample, sample: Sample) -> None:
    whole.end = sample.end
    for name in ("busy", "turns", "events", "steps", "system_calls", "bytes_in", "bytes_out", "gc"):
        setattr(whole, name, getattr(whole, name) + getattr(sample, name))
    whole.longest_turn = max(whole.longest_turn, sample.longest_turn)
    whole.longest_queue_delay = max(whole.longest_queue_delay, sample.longest_queue_delay)


def _point_of_sample(sample: Sample) -> Point:
    length = max(sample.end - sample.begin, 1)
    seconds = length / NS
    return Point(
        utilization=min(sample.busy / length, 1.0),
        events=sample.events / seconds,
        calls_per_event=sample.system_calls / sample.events if sample.events else 0.0,
        turn_longest=sample.longest_turn,
        delay_longest=sample.longest_queue_delay,
        lateness_longest=0,
        bytes_in=sample.bytes_in / seconds,
        bytes_out=sample.bytes_out / seconds,
        gc=min(sample.gc / length, 1.0),
        jobs=0.0,
        files=0.0,
    )
