"""Timers: too many, or late."""

from __future__ import annotations

from noria.sight.findings import places
from noria.sight.findings.finding import Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural, share
from noria.sight.observation import CodeFigures, LoopFigures, Place, TaskFigures

_LEAST_TIMERS = 10  # from which on a percentile says something
_BUSY = 0.3  # utilisation below which timers do no harm
_SLEEPS = 0.5  # share of the timers that asyncio.sleep made


def storms(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    """Return a finding if timers take a large part of the loop."""
    timers = loop.timers
    seconds = max(loop.end - loop.begin, 1) / 1e9
    # A timer of asyncio.sleep is followed by a task's step.
    part = min(2 * timers.fired / loop.events, 1.0) if loop.events else 0.0
    if (
        timers.fired / seconds < thresholds.timers
        or part < thresholds.timer_share
        or loop.utilization < _BUSY
    ):
        return []
    place, who, count = _owner(loop)
    return [
        Finding(
            kind="timer-storm",
            title=f"{timers.fired / seconds:,.0f} timers a second, most of them of {who}",
            evidence=[
                f"{plural(timers.fired, 'timer')} ran, with what they woke {share(part)} of all "
                f"events of the loop, which is busy {share(loop.utilization)} of the time",
                f"{count:,} of them are of {who}",
            ],
            place=place,
            advice="Wait for an event instead of looking at intervals (asyncio.Event, Queue, "
            "Condition), use a longer interval, or one timer for all: a single task that does "
            "the periodic work of many objects.",
            loop=loop.id,
            data={"fired": timers.fired, "rate": timers.fired / seconds, "share": part},
        )
    ]


def late(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    """Return a finding if a tenth of the timers is late, and not for want of a CPU."""
    lateness = loop.timers.lateness
    limit = thresholds.timer_lateness * 1e9
    # Both are estimates: the first misses short turns, the second is a mean.
    limit = max(limit + _longest_wait_for_cpu(loop), limit / max(1 - loop.cpu_wait, 1e-3))
    if lateness.count < _LEAST_TIMERS or lateness.percentile(90) < limit:
        return []
    codes = sorted(loop.codes, key=lambda code: -code.busy)
    evidence = [
        f"of {plural(lateness.count, 'timer')} a tenth ran more than "
        f"{duration(lateness.percentile(90))} late, half more than "
        f"{duration(lateness.percentile(50))}, the last {duration(lateness.longest)}",
    ]
    place = None
    advice = (
        "The loop waits for a CPU or for the GIL: look for threads that compute "
        "(use processes), and for other programs on this machine."
    )
    if codes and codes[0].busy > 0.3 * (loop.end - loop.begin):
        code = codes[0]
        place = code.place
        evidence.append(
            f"{place.function} was called {code.calls:,} times, {duration(code.busy)} in all "
            f"({share(code.busy / max(loop.busy, 1))} of the loop's time), at most "
            f"{duration(code.longest)} at once: no call is long, the queue is"
        )
        evidence.append(f"events waited up to {duration(loop.queue_delay.longest)} in the queue")
        advice = (
            "More is queued than the loop can do: limit how much is begun at once "
            "(asyncio.Semaphore, a bounded asyncio.Queue), queue the next piece of work when one "
            "is done, and move computing to threads or processes."
        )
    return [
        Finding(
            kind="timers-late",
            title=f"timers run up to {duration(lateness.longest)} late",
            evidence=evidence,
            place=place,
            advice=advice,
            loop=loop.id,
            data={
                "timers": lateness.count,
                "p50": lateness.percentile(50),
                "p90": lateness.percentile(90),
                "longest": lateness.longest,
            },
        )
    ]


def _longest_wait_for_cpu(loop: LoopFigures) -> int:
    """How long the loop's thread waited for a free CPU in one turn, in ns, as far as observed."""
    return max((block.runqueue for block in loop.blocks), default=0)


def _owner(loop: LoopFigures) -> tuple[Place | None, str, int]:
    """The code with most timers: of a callback, or a coroutine that sleeps."""
    sleeping: dict[tuple[str, str, int], list[TaskFigures]] = {}
    for task in loop.tasks:
        if task.waiting_for == "sleep":
            sleeping.setdefault(places.key(task.coroutine), []).append(task)
    own = [code for code in loop.timers.by_code if not places.is_standard(code.place)]
    callback: CodeFigures | None = max(own, key=lambda code: code.calls, default=None)
    tasks = max(sleeping.values(), key=_steps, default=None)
    if tasks is None or (callback is not None and callback.calls > _steps(tasks) * _SLEEPS):
        if callback is None:
            return None, "an unknown callback", 0
        return callback.place, callback.place.function, callback.calls
    place = places.innermost(tasks[0].waiting_at) or tasks[0].coroutine
    noun = f"{plural(len(tasks), 'task')} of {tasks[0].coroutine.function}"
    return place, noun, min(_steps(tasks), loop.timers.fired)


def _steps(tasks: list[TaskFigures]) -> int:
    return sum(task.steps for task in tasks)
