"""All findings of an observation, without the consequences of others."""

from __future__ import annotations

from noria.sight.findings import (
    blocked,
    connections,
    errors,
    executor,
    garbage,
    long_turns,
    places,
    polling,
    system_calls,
    timers,
    waiting,
)
from noria.sight.findings.finding import ERROR, Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration
from noria.sight.observation import LoopFigures, Observation

# What keeps the loop from its queue: timers are late then, and that is no finding of its own.
OCCUPYING = frozenset(
    {"loop-blocked", "task-never-yields", "gc-pauses", "task-starved", "timer-storm"}
)


def find(observation: Observation, thresholds: Thresholds | None = None) -> list[Finding]:
    """Return the findings, errors first; an empty list for a healthy program.

    Without `thresholds` those of NORIA_THRESHOLDS are used; raises ValueError if it is wrong.
    """
    if thresholds is None:
        thresholds = Thresholds.from_environment()
    found: list[Finding] = []
    limit = round(thresholds.block * 1e9) or observation.max_block
    for loop in observation.loops:
        found += _of_loop(loop, thresholds, limit)
    found.sort(key=lambda finding: finding.severity != ERROR)
    return found


def _of_loop(loop: LoopFigures, thresholds: Thresholds, limit: int) -> list[Finding]:
    collections = garbage.find(loop, thresholds)
    blocks = blocked.find(loop, thresholds, limit)
    # A long step that blocks nothing was long for want of a CPU.
    occupying = collections + blocks + polling.find(loop, thresholds, limit if blocks else None)
    if not any(finding.kind == "task-starved" for finding in occupying):
        occupying += timers.storms(loop, thresholds)
    causes = [finding for finding in occupying if finding.kind in OCCUPYING]
    late = timers.late(loop, thresholds)
    if not causes:
        # Many short handlers make timers late, too, and are then found as their cause.
        occupying += late or long_turns.find(loop, thresholds, limit)
    elif late:
        lateness = loop.timers.lateness
        causes[0].evidence.append(
            f"consequence: a tenth of the timers ran more than "
            f"{duration(lateness.percentile(90))} late"
        )
    unhandled = errors.find(loop)
    destroyed = {
        places.key(finding.place)
        for finding in unhandled
        if finding.kind == "task-destroyed-pending"
    }
    return [
        *occupying,
        *unhandled,
        *(
            each
            for each in waiting.find(loop, thresholds)
            if places.key(each.place) not in destroyed
        ),
        *connections.find(loop, thresholds),
        *executor.find(loop, thresholds),
        *system_calls.find(loop, thresholds),
    ]
