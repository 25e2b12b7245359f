"""The figures of a process that `noria top`, reports, findings and metrics show.

Times are CLOCK_MONOTONIC in nanoseconds of the observed machine; durations are in nanoseconds. A
figure that could not be observed is 0, "" or None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# The counters of struct Counters (contract.pxd) that count system calls; the others are subsets of
# these, bytes or times.
SYSTEM_CALLS = ("waits", "receives", "sends", "accepts", "controls")


@dataclass(slots=True)
class Place:
    """A place in the code: a function, or a line of it."""

    function: str = ""  # the qualified name
    file: str = ""
    line: int = 0
    source: str = ""  # the text of the line, if it is known

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})" if self.file else self.function


@dataclass(slots=True)
class Distribution:
    """Durations, counted in buckets: each bound is at most 12.5% above the one before."""

    count: int = 0
    total: int = 0  # ns
    longest: int = 0  # ns
    buckets: list[tuple[int, int]] = field(default_factory=list)  # (upper bound in ns, count)

    @property
    def mean(self) -> float:
        """The mean in ns; 0 without values."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Return the upper bound, in ns, of the bucket with this percentile; 0 without values."""
        wanted = self.count * percent / 100
        seen = 0
        for bound, count in self.buckets:
            seen += count
            if seen >= wanted and seen:
                return min(bound, self.longest)
        return self.longest

    def above(self, limit: int) -> int:
        """Return how many values lie in buckets above `limit` ns."""
        return sum(count for bound, count in self.buckets if bound > limit)

    @staticmethod
    def merged(parts: Iterable[Distribution]) -> Distribution:
        """Return the sum of several distributions."""
        counts: dict[int, int] = {}
        whole = Distribution()
        for part in parts:
            whole.count += part.count
            whole.total += part.total
            whole.longest = max(whole.longest, part.longest)
            for bound, count in part.buckets:
                counts[bound] = counts.get(bound, 0) + count
        whole.buckets = sorted(counts.items())
        return whole


@dataclass(slots=True)
class CodeFigures:
    """What one function, coroutine or protocol class has used of the loop."""

    id: int
    kind: str  # "callback", "task", "protocol", "timer"
    place: Place
    calls: int = 0
    busy: int = 0
    longest: int = 0


@dataclass(slots=True)
class SlowCall:
    """One of the longest calls of a handler."""

    kind: str
    place: Place
    started: int
    duration: int
    task: int = 0  # id; 0: none
    fd: int = -1
    events_waiting: int = 0


@dataclass(slots=True)
class TaskFigures:
    """A task. `id` is its address, as `id(task)` gives it."""

    id: int
    name: str = ""
    coroutine: Place = field(default_factory=Place)
    state: str = ""  # "running", "scheduled", "waiting", "done"
    created: int = 0
    ended: int = 0
    steps: int = 0
    busy: int = 0
    scheduled: int = 0  # between being queued and running
    longest_step: int = 0
    last_step: int = 0
    self_wakes: int = 0  # steps that the task's own step before had queued: sleep(0) and the like
    waiting_at: list[Place] = field(default_factory=list)  # the await stack, outermost first
    waiting_for: str = ""  # "sleep", "Lock", "Future", a task's name …
    awaited_by: list[int] = field(default_factory=list)
    main: bool = False  # run_until_complete waits for it
    waiting_since: int = 0  # 0: unknown, or it does not wait
    orphaned: bool = False  # it awaits a future that nothing else refers to: nothing can resume it


@dataclass(slots=True)
class ConnectionFigures:
    """A connection. Descriptors are reused: (`fd`, `opened`) identifies it."""

    fd: int
    opened: int = 0
    closed: int = 0
    error: int = 0  # errno that has ended it, such as ECONNRESET; 0: none
    peer: str = ""
    local: str = ""
    protocol: str = ""
    datagrams: bool = False  # not a stream
    tls: str = ""  # "", or the protocol's version
    bytes_in: int = 0
    bytes_out: int = 0
    receives: int = 0
    sends: int = 0
    blocked_sends: int = 0
    last_received: int = 0
    last_sent: int = 0
    unread: int = 0  # bytes that the kernel has and the program has not received
    unread_since: int = 0  # 0: there are none
    unsent: int = 0  # bytes that noria keeps because the kernel does not take them
    unsent_in_kernel: int = 0  # bytes that the peer has not acknowledged
    reading_paused_since: int = 0  # 0: it is not paused
    writing_paused_since: int = 0
    user: Place | None = None  # where the task is that has it, if it is known
    handler: Place | None = None  # the protocol's method that gets its data; None: streams
    opened_at: Place | None = None  # the program's line that opened it; None: accepted, or unknown
    paused_at: Place | None = None  # the program's line that last paused reading
    written_at: Place | None = None  # the program's line whose write last paused writing
    sender: Place | None = None  # the handler that has made most of `repeated_sends`
    repeated_sends: int = 0  # sends in the handler call that had sent on this connection before
    buffered: int = 0  # bytes received that a StreamReader keeps and no task has read
    # Over the whole observation.
    longest_reading_pause: int = 0  # ns
    longest_writing_pause: int = 0  # ns
    most_unread: int = 0
    longest_unread: int = 0  # ns with unread bytes and without a receive
    most_unsent: int = 0
    written_while_paused: int = 0  # bytes of `unsent` that were added after pause_writing


@dataclass(slots=True)
class TimerFigures:
    """The timers of a loop."""

    pending: int = 0
    fired: int = 0
    lateness: Distribution = field(default_factory=Distribution)
    by_code: list[CodeFigures] = field(default_factory=list)


@dataclass(slots=True)
class FileFigures:
    """Operations on files."""

    begun: int = 0
    in_flight: int = 0
    failed: int = 0
    duration: Distribution = field(default_factory=Distribution)


@dataclass(slots=True)
class ExecutorFigures:
    """Jobs of run_in_executor."""

    workers: int = 0
    max_workers: int = 0
    queued: int = 0  # now
    running: int = 0  # now
    submitted: int = 0
    finished: int = 0
    waiting: Distribution = field(default_factory=Distribution)
    duration: Distribution = field(default_factory=Distribution)
    by_code: list[CodeFigures] = field(default_factory=list)


@dataclass(slots=True)
class GcFigures:
    """Garbage collections that ran in the loop's thread or any other (all hold the GIL)."""

    collections: list[int] = field(default_factory=lambda: [0, 0, 0])  # for each generation
    collected: int = 0
    pauses: Distribution = field(default_factory=Distribution)
    by_code: list[CodeFigures] = field(default_factory=list)  # the lines that started them
    slow: list[SlowCall] = field(default_factory=list)  # the longest first; kind "gc"
    run: int = 0  # ns of CPU time of the pauses; 0: unknown
    longest_run: int = 0  # ns of CPU time of the longest one; 0: unknown


@dataclass(slots=True)
class Block:
    """A turn that was longer than the limit, and the stack of the loop's thread meanwhile."""

    started: int
    duration: int
    ended: bool = True
    stack: list[Place] = field(default_factory=list)  # outermost first
    task: str = ""
    events_waiting: int = 0
    handlers: int = 0  # that the turn has run; 0: unknown
    delay_share: float = 0.0  # of all queue delay that was observed: 0 to 1
    gil_held: bool = False  # C code held the GIL: the stack was taken when it released it
    cpu: int = 0  # ns of it that the thread ran (/proc/PID/task/TID/schedstat), as far as observed
    runqueue: int = 0  # ns of it that the thread waited for a free CPU
    gil_wait: int = 0  # ns of it that the watchdog waited for the GIL, each time it took the stack
    # ns, not in `duration`, in which the process was stopped or debugged; of a turn that was long
    # only for want of a CPU also `runqueue`.
    excused: int = 0
    # The program's innermost lines that were seen while it lasted, and how often, the most first.
    samples: list[tuple[Place, int]] = field(default_factory=list)
    importing: int = 0  # how many of the samples were inside an import statement


@dataclass(slots=True)
class ErrorFigures:
    """Exceptions that no handler or task caught, of one type at one place."""

    type: str
    message: str
    place: Place
    count: int = 1
    last: int = 0
    # "callback", "task never retrieved", "future never retrieved", "task destroyed pending"
    kind: str = "callback"


@dataclass(slots=True)
class Sample:
    """The figures of one interval, for sparklines and timelines."""

    begin: int
    end: int
    busy: int = 0
    turns: int = 0
    events: int = 0
    steps: int = 0
    system_calls: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    longest_turn: int = 0
    longest_queue_delay: int = 0
    gc: int = 0


@dataclass(slots=True)
class LoopFigures:
    """One loop. `begin` and `end` limit what was observed."""

    id: int  # 0, 1, … in the order in which they were made
    model: str = ""
    thread_name: str = ""
    running: bool = False
    closed: bool = False
    begin: int = 0
    end: int = 0
    busy: int = 0  # in handlers and in the loop itself
    waiting: int = 0  # asleep in the kernel
    turns: int = 0
    waits: int = 0
    polls: int = 0
    empty_polls: int = 0
    events: int = 0  # handlers called: callbacks, steps and I/O
    callbacks: int = 0
    steps: int = 0
    io: int = 0
    wakeups: int = 0  # by other threads and signals
    records: int = 0
    dropped: int = 0  # records that were overwritten before they were read
    cpu: int = 0  # ns that the thread ran between the first and the last snapshot
    runqueue: int = 0  # ns that it waited for a free CPU meanwhile
    system_calls: dict[str, int] = field(default_factory=dict)  # struct Counters, since the begin
    turn: Distribution = field(default_factory=Distribution)
    queue_delay: Distribution = field(default_factory=Distribution)
    handler: Distribution = field(default_factory=Distribution)
    tasks_alive: int | None = None  # None: unknown, without a snapshot
    tasks_created: int = 0
    codes: list[CodeFigures] = field(default_factory=list)
    slow: list[SlowCall] = field(default_factory=list)  # the longest first
    running_call: SlowCall | None = None  # the handler that runs at `end`; not ended yet
    tasks: list[TaskFigures] = field(default_factory=list)
    connections: list[ConnectionFigures] = field(default_factory=list)  # open ones, then closed
    connections_opened: int = 0
    connections_open: int = 0
    timers: TimerFigures = field(default_factory=TimerFigures)
    files: FileFigures = field(default_factory=FileFigures)
    executor: ExecutorFigures = field(default_factory=ExecutorFigures)
    gc: GcFigures = field(default_factory=GcFigures)
    blocks: list[Block] = field(default_factory=list)
    errors: list[ErrorFigures] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def utilization(self) -> float:
        """The share of time that the loop was not asleep: 0 to 1."""
        return self.busy / (self.busy + self.waiting) if self.busy + self.waiting else 0.0

    @property
    def cpu_wait(self) -> float:
        """The share of the time that its thread had to do in which it waited for a CPU: 0 to 1."""
        return self.runqueue / (self.cpu + self.runqueue) if self.runqueue else 0.0

    @property
    def calls(self) -> int:
        """System calls of the core; `system_calls` also has other counters."""
        return sum(self.system_calls.get(name, 0) for name in SYSTEM_CALLS)

    @property
    def calls_per_event(self) -> float:
        """System calls for each event handled."""
        return self.calls / self.events if self.events else 0.0


@dataclass(slots=True)
class Observation:
    """A process, at one moment or over a recording."""

    pid: int = 0
    command: str = ""
    python: str = ""
    noria: str = ""
    now: int = 0
    realtime: int = 0  # CLOCK_REALTIME in ns at `now`
    answering: bool = True  # False: the process has not answered for `silent` ns
    silent: int = 0
    max_block: int = 100_000_000
    loops_lost: int = 0  # loops that are not in `loops`, as they could not be read in time
    loops: list[LoopFigures] = field(default_factory=list)
