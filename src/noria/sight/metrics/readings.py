"""The metrics: their names, units and help, and where each is read in the figures of a loop.

Names follow https://prometheus.io/docs/practices/naming/: seconds and bytes, ``_total`` for
counters. `Definition.read` returns the value of each label, in nanoseconds where the unit is
seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from noria.sight.observation import Distribution, LoopFigures

# Upper bounds of all histograms, in ns. A bucket of a Distribution counts below a bound if it lies
# below as a whole: a duration within 12.5% of a bound may be counted in the bucket after it.
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
BOUNDS = (
    *(factor * MICROSECOND for factor in (10, 25, 50, 100, 250, 500)),
    *(factor * MILLISECOND for factor in (1, 2.5, 5, 10, 25, 50, 100, 250, 500)),
    *(factor * SECOND for factor in (1, 2.5, 5, 10)),
)

Values = dict[str, int]  # by the value of the definition's own label; "" without one
MAX_LABEL_VALUES = 32  # of a definition's own label; others are added up as "other"


@dataclass(frozen=True)
class Definition:
    """A counter or gauge of each loop."""

    name: str
    help: str
    read: Callable[[LoopFigures], int | Values]
    unit: str = ""
    label: str = ""

    def values(self, loop: LoopFigures) -> Values:
        """Return the values by label."""
        read = self.read(loop)
        return read if isinstance(read, dict) else {"": read}


@dataclass(frozen=True)
class HistogramDefinition:
    """A histogram of each loop, in seconds."""

    name: str
    help: str
    read: Callable[[LoopFigures], Distribution]


def _calls(loop: LoopFigures) -> Values:
    return {
        call: loop.system_calls.get(name, 0)
        for call, name in (
            ("wait", "waits"),
            ("receive", "receives"),
            ("send", "sends"),
            ("accept", "accepts"),
            ("control", "controls"),
        )
    }


def _empty_calls(loop: LoopFigures) -> Values:
    return {
        call: loop.system_calls.get(name, 0)
        for call, name in (
            ("wait", "empty_waits"),
            ("receive", "empty_receives"),
            ("send", "blocked_sends"),
            ("accept", "empty_accepts"),
        )
    }


def _events(loop: LoopFigures) -> Values:
    return {"callback": loop.callbacks, "task_step": loop.steps, "io": loop.io}


def _paused(loop: LoopFigures) -> Values:
    still_open = [each for each in loop.connections if not each.closed]
    return {
        "reading": sum(bool(each.reading_paused_since) for each in still_open),
        "writing": sum(bool(each.writing_paused_since) for each in still_open),
    }


def _open_sum(field: str) -> Callable[[LoopFigures], int]:
    return lambda loop: sum(getattr(each, field) for each in loop.connections if not each.closed)


COUNTERS = (
    Definition(
        "noria_loop_busy_seconds",
        "Time in handlers and in the loop itself.",
        lambda loop: loop.busy,
        "seconds",
    ),
    Definition(
        "noria_loop_waiting_seconds",
        "Time asleep in the kernel.",
        lambda loop: loop.waiting,
        "seconds",
    ),
    Definition("noria_loop_turns", "Turns of the loop.", lambda loop: loop.turns),
    Definition(
        "noria_loop_polls",
        "Polls of the kernel without waiting, by whether they returned an event.",
        lambda loop: {
            "empty": loop.empty_polls,
            "event": max(loop.polls - loop.empty_polls, 0),
        },
        label="result",
    ),
    Definition(
        "noria_loop_wakeups",
        "Wake-ups of the loop by other threads and by signals.",
        lambda loop: loop.wakeups,
    ),
    Definition(
        "noria_events", "Handlers called: callbacks, steps of tasks, I/O.", _events, label="kind"
    ),
    Definition("noria_tasks_created", "Tasks created.", lambda loop: loop.tasks_created),
    Definition(
        "noria_connections_opened",
        "Connections opened: accepted and outgoing.",
        lambda loop: loop.connections_opened,
    ),
    Definition(
        "noria_received_bytes",
        "Bytes received from sockets.",
        lambda loop: loop.system_calls.get("bytes_in", 0),
        "bytes",
    ),
    Definition(
        "noria_sent_bytes",
        "Bytes that the kernel has taken for sending.",
        lambda loop: loop.system_calls.get("bytes_out", 0),
        "bytes",
    ),
    Definition("noria_system_calls", "System calls of the loop.", _calls, label="call"),
    Definition(
        "noria_empty_system_calls",
        "System calls that returned no event, or EAGAIN; part of noria_system_calls_total.",
        _empty_calls,
        label="call",
    ),
    Definition("noria_timers_fired", "Timers that were due.", lambda loop: loop.timers.fired),
    Definition(
        "noria_file_operations", "Operations on files, begun.", lambda loop: loop.files.begun
    ),
    Definition(
        "noria_file_operations_failed",
        "Operations on files that ended with an error.",
        lambda loop: loop.files.failed,
    ),
    Definition(
        "noria_executor_jobs_submitted",
        "Calls of run_in_executor and asyncio.to_thread.",
        lambda loop: loop.executor.submitted,
    ),
    Definition(
        "noria_executor_jobs_finished",
        "Jobs of executors that have ended.",
        lambda loop: loop.executor.finished,
    ),
    Definition(
        "noria_gc_collections",
        "Garbage collections, by generation.",
        lambda loop: {str(number): count for number, count in enumerate(loop.gc.collections)},
        label="generation",
    ),
    Definition(
        "noria_gc_objects_collected",
        "Objects that garbage collections have freed.",
        lambda loop: loop.gc.collected,
    ),
    Definition("noria_recorder_records", "Records read.", lambda loop: loop.records),
    Definition(
        "noria_recorder_dropped_records",
        "Records that were overwritten before they were read: other figures lack them.",
        lambda loop: loop.dropped,
    ),
)

# Their figures are lists that keep only the latest entries, so `Totals` adds up what is new.
BLOCKS = Definition(
    "noria_loop_blocks",
    "Turns that were longer than the limit for blocking (--max-block).",
    lambda loop: len(loop.blocks),
)
BLOCKED = Definition(
    "noria_loop_blocked_seconds",
    "Duration of the turns that were longer than the limit for blocking (--max-block).",
    lambda loop: sum(block.duration for block in loop.blocks),
    "seconds",
)
EXCEPTIONS = Definition(
    "noria_exceptions",
    "Exceptions that no handler or task has caught, and tasks destroyed while pending.",
    lambda loop: {error.kind: error.count for error in loop.errors},
    label="kind",
)

# Of loops that are open.
GAUGES = (
    Definition(
        "noria_loop_blocked",
        "1 while a turn lasts longer than the limit for blocking, else 0.",
        lambda loop: int(any(not block.ended for block in loop.blocks)),
    ),
    Definition("noria_tasks", "Tasks that have not ended.", lambda loop: loop.tasks_alive or 0),
    Definition("noria_connections", "Open connections.", lambda loop: loop.connections_open),
    Definition(
        "noria_connections_paused",
        "Open connections whose reading, or writing, is paused.",
        _paused,
        label="side",
    ),
    Definition(
        "noria_unread_bytes",
        "Bytes that the kernel has received and the program has not.",
        _open_sum("unread"),
        "bytes",
    ),
    Definition(
        "noria_unsent_bytes",
        "Bytes that transports keep because the kernel does not take them.",
        _open_sum("unsent"),
        "bytes",
    ),
    Definition("noria_timers", "Timers pending.", lambda loop: loop.timers.pending),
    Definition(
        "noria_file_operations_in_flight",
        "Operations on files that have not ended.",
        lambda loop: loop.files.in_flight,
    ),
    Definition(
        "noria_executor_workers",
        "Threads or processes of executors.",
        lambda loop: loop.executor.workers,
    ),
    Definition(
        "noria_executor_max_workers",
        "Threads or processes that executors may start.",
        lambda loop: loop.executor.max_workers,
    ),
    Definition(
        "noria_executor_queued_jobs",
        "Jobs that wait for a worker of the executor.",
        lambda loop: loop.executor.queued,
    ),
    Definition(
        "noria_executor_running_jobs",
        "Jobs that run in an executor.",
        lambda loop: loop.executor.running,
    ),
)

HISTOGRAMS = (
    HistogramDefinition(
        "noria_loop_turn_seconds",
        "Duration of a turn's handlers: so long other events wait.",
        lambda loop: loop.turn,
    ),
    HistogramDefinition(
        "noria_loop_queue_delay_seconds",
        "Time from the queueing of an event to the call of its handler.",
        lambda loop: loop.queue_delay,
    ),
    HistogramDefinition(
        "noria_loop_handler_seconds", "Duration of a handler's call.", lambda loop: loop.handler
    ),
    HistogramDefinition(
        "noria_loop_timer_lateness_seconds",
        "Time from the moment a timer was due to its being queued.",
        lambda loop: loop.timers.lateness,
    ),
    HistogramDefinition(
        "noria_file_operation_seconds",
        "Duration of an operation on a file.",
        lambda loop: loop.files.duration,
    ),
    HistogramDefinition(
        "noria_executor_wait_seconds",
        "Time that a job of an executor waited for a worker.",
        lambda loop: loop.executor.waiting,
    ),
    HistogramDefinition(
        "noria_executor_job_seconds",
        "Duration of a job of an executor.",
        lambda loop: loop.executor.duration,
    ),
    HistogramDefinition(
        "noria_gc_pause_seconds",
        "Duration of a garbage collection; no Python code runs meanwhile.",
        lambda loop: loop.gc.pauses,
    ),
)


def bucket_counts(distribution: Distribution) -> list[int]:
    """Return how many values lie in each bucket of BOUNDS and above the last; not cumulative."""
    counts = [0] * (len(BOUNDS) + 1)
    at = 0
    for bound, count in distribution.buckets:
        while at < len(BOUNDS) and bound > BOUNDS[at]:
            at += 1
        counts[at] += count
    return counts
