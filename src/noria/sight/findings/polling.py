"""Tasks that wake themselves: they starve others, or poll."""

from __future__ import annotations

from dataclasses import dataclass, field

from noria.sight.findings import places
from noria.sight.findings.finding import ERROR, Finding
from noria.sight.findings.source_lines import nearest_await, only_await
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural, share
from noria.sight.observation import LoopFigures, Place, TaskFigures

# A task mostly wakes itself if this share of its steps was queued by its own step before.
_SELF_WOKEN = 0.8
# A step that takes longer does work; a shorter one only looks.
_LOOKS_NS = 100_000
# Steps of a victim from which on a mean says something.
_LEAST_STEPS = 2


@dataclass
class _Group:
    """Tasks of one coroutine."""

    place: Place
    tasks: list[TaskFigures] = field(default_factory=list)

    @property
    def busy(self) -> int:
        return sum(task.busy for task in self.tasks)

    @property
    def steps(self) -> int:
        return sum(task.steps for task in self.tasks)

    @property
    def again(self) -> int:
        """Steps after each task's first, which its creation has queued."""
        return self.steps - len(self.tasks)

    @property
    def self_wakes(self) -> int:
        return sum(task.self_wakes for task in self.tasks)

    @property
    def await_place(self) -> Place:
        """Where most of the tasks yield; the coroutine if they ended before it was seen."""
        seen: dict[tuple[str, str, int], list[Place]] = {}
        for task in self.tasks:
            place = places.innermost(task.waiting_at)
            if place is not None:
                seen.setdefault(places.key(place), []).append(place)
        if not seen:
            return only_await(self.place)
        return nearest_await(max(seen.values(), key=len)[0])


def find(loop: LoopFigures, thresholds: Thresholds, limit: int | None) -> list[Finding]:
    """Return task-starved or self-wake-storm for the coroutines that wake themselves.

    Not for those with steps longer than `limit` ns: they block the loop. None: there are none.
    """
    groups: dict[tuple[str, str, int], _Group] = {}
    for task in loop.tasks:
        key = places.key(task.coroutine)
        groups.setdefault(key, _Group(task.coroutine)).tasks.append(task)
    polling = [
        group
        for group in groups.values()
        if group.again and group.self_wakes >= _SELF_WOKEN * group.again
    ]
    polling = [
        group
        for group in polling
        if limit is None
        or max(task.longest_step for task in group.tasks) < limit
        or group.busy > 10 * max(task.longest_step for task in group.tasks)
    ]
    if not polling:
        return []
    busy = sum(group.busy for group in polling)
    # On a busy machine everything waits longer, for a CPU.
    delay = round(thresholds.starved_delay * 1e9 / max(1 - loop.cpu_wait, 1e-3))
    victims = _victims(groups, polling, delay)
    if victims and busy >= thresholds.starved_share * loop.busy:
        return [_starved(loop, max(polling, key=lambda group: group.busy), victims)]
    return _storm(loop, polling, thresholds)


def _victims(
    groups: dict[tuple[str, str, int], _Group], polling: list[_Group], delay: int
) -> list[TaskFigures]:
    """The other tasks that waited long for each of their steps, the longest first."""
    found = [
        task
        for group in groups.values()
        if group not in polling
        for task in group.tasks
        if task.steps >= _LEAST_STEPS and task.scheduled / task.steps >= delay
    ]
    return sorted(found, key=lambda task: -task.scheduled)


def _starved(loop: LoopFigures, culprit: _Group, victims: list[TaskFigures]) -> Finding:
    worst = victims[0]
    mean = worst.scheduled / worst.steps
    return Finding(
        kind="task-starved",
        title=f"{plural(len(culprit.tasks), 'task')} of {culprit.place.function} starve "
        f"{worst.name or worst.coroutine.function}"
        + (f" and {plural(len(victims) - 1, 'other task')}" if len(victims) > 1 else ""),
        evidence=[
            f"{worst.name or 'the task'} ({worst.coroutine.function}) waited {duration(mean)} on "
            f"average for each of its {plural(worst.steps, 'step')}, "
            f"{duration(worst.scheduled)} in all",
            f"{culprit.place.function}: {plural(culprit.steps, 'step')} of "
            f"{duration(culprit.busy / culprit.steps)} took "
            f"{share(culprit.busy / max(loop.busy, 1))} of the loop's time, and "
            f"{share(culprit.self_wakes / culprit.steps)} of them were queued by the step before",
        ],
        place=culprit.await_place,
        advice="`await asyncio.sleep(0)` lets every other event run once, but with many such "
        "tasks a turn is long. Run fewer of them at once (asyncio.Semaphore), move the work to "
        "threads or processes, or let one task do it in pieces of a few ms in all for each turn.",
        severity=ERROR,
        loop=loop.id,
        data={
            "victims": len(victims),
            "delay": mean,
            "tasks": len(culprit.tasks),
            "share": culprit.busy / max(loop.busy, 1),
        },
    )


def _storm(loop: LoopFigures, polling: list[_Group], thresholds: Thresholds) -> list[Finding]:
    seconds = max(loop.end - loop.begin, 1) / 1e9
    worst = max(polling, key=lambda group: group.self_wakes)
    wakes = worst.self_wakes
    part = wakes / loop.events if loop.events else 0.0
    if (
        wakes / seconds < thresholds.self_wakes
        or part < thresholds.self_wake_share
        or worst.busy / worst.steps * (1 - loop.cpu_wait) > _LOOKS_NS
    ):
        return []
    return [
        Finding(
            kind="self-wake-storm",
            title=f"{worst.place.function} polls: it woke itself {wakes:,} times",
            evidence=[
                f"{wakes / seconds:,.0f} wake-ups a second, {share(part)} of all events of the "
                f"loop; {share(wakes / worst.steps)} of its steps were queued by the step before",
                f"a step takes {duration(worst.busy / worst.steps)}: it looks whether something "
                f"has happened, and the loop is busy {share(loop.utilization)} of the time",
            ],
            place=worst.await_place,
            advice="Wait for what it polls: an asyncio.Event, Condition, Queue or Future that the "
            "other side sets; from a thread with loop.call_soon_threadsafe.",
            loop=loop.id,
            data={
                "wakes": wakes,
                "share": part,
                "tasks": len(worst.tasks),
                "step": worst.busy / worst.steps,
            },
        )
    ]
