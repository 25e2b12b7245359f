"""What happened between two observations of a process."""

from __future__ import annotations

from dataclasses import dataclass, field

from noria.sight.observation import (
    CodeFigures,
    ConnectionFigures,
    Distribution,
    LoopFigures,
    Observation,
    TaskFigures,
)

NS = 1e9

ConnectionKey = tuple[int, int]  # (fd, opened): descriptors are reused
TaskKey = tuple[int, int]  # (id, created): so are addresses


def connection_key(connection: ConnectionFigures) -> ConnectionKey:
    """Return what identifies a connection in all observations of its process."""
    return connection.fd, connection.opened


def task_key(task: TaskFigures) -> TaskKey:
    """Return what identifies a task in all observations of its process."""
    return task.id, task.created


def code_key(code: CodeFigures) -> tuple[int, str]:
    """Return what identifies the figures of a function."""
    return code.id, code.kind


def difference(after: Distribution, before: Distribution | None) -> Distribution:
    """Return the durations that were counted between two observations.

    `longest` is exact if the longest of all is among them, else the upper bound of its bucket.
    """
    if before is None or before.count > after.count:
        return after
    counted = dict(before.buckets)
    buckets = [
        (bound, count - counted.get(bound, 0))
        for bound, count in after.buckets
        if count > counted.get(bound, 0)
    ]
    longest = after.longest
    if after.longest <= before.longest:
        longest = min(buckets[-1][0], after.longest) if buckets else 0
    return Distribution(after.count - before.count, after.total - before.total, longest, buckets)


@dataclass(slots=True)
class CodeRates:
    """What one function used of the loop. Shares are of the interval: 0 to 1."""

    code: CodeFigures
    calls: float = 0.0  # each second
    busy: float = 0.0
    mean: float = 0.0  # ns a call


@dataclass(slots=True)
class TaskRates:
    """What one task used of the loop. Shares are of the interval: 0 to 1."""

    busy: float = 0.0
    scheduled: float = 0.0
    steps: float = 0.0  # each second


@dataclass(slots=True)
class ConnectionRates:
    """Bytes each second."""

    bytes_in: float = 0.0
    bytes_out: float = 0.0


@dataclass(slots=True)
class LoopRates:
    """One loop in one interval. Figures without a unit are numbers each second."""

    seconds: float
    utilization: float = 0.0
    events: float = 0.0
    callbacks: float = 0.0
    steps: float = 0.0
    io: float = 0.0
    turns: float = 0.0
    calls: float = 0.0
    calls_per_event: float = 0.0
    polls: float = 0.0
    empty_polls: float = 0.0
    wakeups: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    timers: float = 0.0
    tasks_created: float = 0.0
    connections_opened: float = 0.0
    files: float = 0.0
    jobs: float = 0.0
    dropped: int = 0  # records
    turn: Distribution = field(default_factory=Distribution)
    queue_delay: Distribution = field(default_factory=Distribution)
    lateness: Distribution = field(default_factory=Distribution)
    gc: Distribution = field(default_factory=Distribution)
    collections: list[int] = field(default_factory=lambda: [0, 0, 0])
    file_duration: Distribution = field(default_factory=Distribution)
    job_waiting: Distribution = field(default_factory=Distribution)
    job_duration: Distribution = field(default_factory=Distribution)
    codes: list[CodeRates] = field(default_factory=list)
    timer_codes: list[CodeRates] = field(default_factory=list)
    job_codes: list[CodeRates] = field(default_factory=list)
    tasks: dict[TaskKey, TaskRates] = field(default_factory=dict)
    connections: dict[ConnectionKey, ConnectionRates] = field(default_factory=dict)

    @property
    def gc_share(self) -> float:
        """The share of the interval in garbage collections: 0 to 1."""
        return min(self.gc.total / NS / self.seconds, 1.0)

    @property
    def empty_poll_share(self) -> float:
        """The share of polls that found nothing: 0 to 1."""
        return self.empty_polls / self.polls if self.polls else 0.0


def loop_rates(after: LoopFigures, before: LoopFigures | None) -> LoopRates:
    """Return what a loop did since *before*; without it, since the observation began."""
    old = before or LoopFigures(after.id, begin=after.begin, end=after.begin)
    # A loop that has ended, or was not observed in between, has no new time.
    seconds = max((after.end - old.end) / NS, 1e-9)
    busy, waiting = after.busy - old.busy, after.waiting - old.waiting
    events, calls = after.events - old.events, after.calls - old.calls

    def per_second(name: str) -> float:
        return float(max(getattr(after, name) - getattr(old, name), 0) / seconds)

    def counter(name: str) -> float:
        new = after.system_calls.get(name, 0) - old.system_calls.get(name, 0)
        return max(new, 0) / seconds

    return LoopRates(
        seconds,
        utilization=min(max(busy / (busy + waiting), 0.0), 1.0) if busy + waiting > 0 else 0.0,
        events=max(events, 0) / seconds,
        callbacks=per_second("callbacks"),
        steps=per_second("steps"),
        io=per_second("io"),
        turns=per_second("turns"),
        calls=max(calls, 0) / seconds,
        calls_per_event=max(calls, 0) / events if events > 0 else 0.0,
        polls=per_second("polls"),
        empty_polls=per_second("empty_polls"),
        wakeups=per_second("wakeups"),
        bytes_in=counter("bytes_in"),
        bytes_out=counter("bytes_out"),
        timers=max(after.timers.fired - old.timers.fired, 0) / seconds,
        tasks_created=per_second("tasks_created"),
        connections_opened=per_second("connections_opened"),
        files=max(after.files.begun - old.files.begun, 0) / seconds,
        jobs=max(after.executor.finished - old.executor.finished, 0) / seconds,
        dropped=max(after.dropped - old.dropped, 0),
        turn=difference(after.turn, old.turn),
        queue_delay=difference(after.queue_delay, old.queue_delay),
        lateness=difference(after.timers.lateness, old.timers.lateness),
        gc=difference(after.gc.pauses, old.gc.pauses),
        collections=[
            max(new - old_count, 0)
            for new, old_count in zip(after.gc.collections, old.gc.collections, strict=False)
        ],
        file_duration=difference(after.files.duration, old.files.duration),
        job_waiting=difference(after.executor.waiting, old.executor.waiting),
        job_duration=difference(after.executor.duration, old.executor.duration),
        codes=_code_rates(after.codes, old.codes, seconds),
        timer_codes=_code_rates(after.timers.by_code, old.timers.by_code, seconds),
        job_codes=_code_rates(after.executor.by_code, old.executor.by_code, seconds),
        tasks=_task_rates(after, old, seconds),
        connections=_connection_rates(after, old, seconds),
    )


def rates(after: Observation, before: Observation | None) -> dict[int, LoopRates]:
    """Return what each loop did between two observations, by the loop's id."""
    old = {loop.id: loop for loop in before.loops} if before is not None else {}
    return {loop.id: loop_rates(loop, old.get(loop.id)) for loop in after.loops}


def _code_rates(
    after: list[CodeFigures], before: list[CodeFigures], seconds: float
) -> list[CodeRates]:
    old = {code_key(code): code for code in before}
    found = []
    for code in after:
        past = old.get(code_key(code))
        calls = code.calls - (past.calls if past else 0)
        busy = code.busy - (past.busy if past else 0)
        found.append(
            CodeRates(
                code,
                max(calls, 0) / seconds,
                max(busy, 0) / NS / seconds,
                max(busy, 0) / calls if calls > 0 else 0.0,
            )
        )
    return found


def _task_rates(
    after: LoopFigures, before: LoopFigures, seconds: float
) -> dict[TaskKey, TaskRates]:
    old = {task_key(task): task for task in before.tasks}
    found = {}
    for task in after.tasks:
        past = old.get(task_key(task))
        steps = task.steps - (past.steps if past else 0)
        if steps > 0 or task.state == "running":  # most tasks of a large program sleep
            busy = task.busy - (past.busy if past else 0)
            scheduled = task.scheduled - (past.scheduled if past else 0)
            found[task_key(task)] = TaskRates(
                max(busy, 0) / NS / seconds, max(scheduled, 0) / NS / seconds, steps / seconds
            )
    return found


def _connection_rates(
    after: LoopFigures, before: LoopFigures, seconds: float
) -> dict[ConnectionKey, ConnectionRates]:
    old = {connection_key(connection): connection for connection in before.connections}
    found = {}
    for connection in after.connections:
        past = old.get(connection_key(connection))
        received = connection.bytes_in - (past.bytes_in if past else 0)
        sent = connection.bytes_out - (past.bytes_out if past else 0)
        if received > 0 or sent > 0:
            found[connection_key(connection)] = ConnectionRates(
                max(received, 0) / seconds, max(sent, 0) / seconds
            )
    return found
