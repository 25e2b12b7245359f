"""The numbers of the page: an observation, its findings and timelines as one object of JSON.

Its size is bounded: there are at most `MAX_LOOPS` loops, a timeline has at most `BUCKETS` intervals
and a few lanes, tables have at most `MAX_ROWS` rows. Times are in microseconds since the beginning
of the recording.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from typing import Any

from noria.sight.findings import Finding
from noria.sight.names import Names
from noria.sight.observation import (
    CodeFigures,
    Distribution,
    LoopFigures,
    Observation,
    Place,
)

BUCKETS = 2000
LONGEST = 4000  # handlers that a timeline names one by one
LANES = 16  # of tasks, and of connections
SPANS = 600  # of each lane
MAX_ROWS = 500
MAX_STACKS = 200
MAX_LOOPS = 100

Lanes = Mapping[str, Any]  # what Timeline.lanes returns


def page_data(
    observation: Observation,
    findings: Sequence[Finding],
    timelines: Mapping[int, Lanes],
    names: Mapping[int, Names],
) -> dict[str, Any]:
    """Return what the page's scripts draw, of the loops that `shown_loops` chooses.

    *timelines* has the result of Timeline.lanes for loops by id; for others the page draws the
    samples of the observation. *names* has the names of the codes in them, also by loop.
    """
    shown = shown_loops(observation, findings)
    return {
        "pid": observation.pid,
        "command": observation.command,
        "python": observation.python,
        "noria": observation.noria,
        "answering": observation.answering,
        "max_block": us(observation.max_block),
        "findings": [_finding(finding) for finding in findings],
        "loops": [
            _loop(figures, timelines.get(figures.id), names.get(figures.id) or Names())
            for figures in observation.loops
            if figures.id in shown
        ],
        "loops_hidden": len(observation.loops) - len(shown),
        "loops_lost": observation.loops_lost,
    }


def shown_loops(observation: Observation, findings: Sequence[Finding]) -> set[int]:
    """Return the ids of the loops on the page: those with findings, then the busiest."""
    faulty = {finding.loop for finding in findings}
    loops = sorted(observation.loops, key=lambda loop: (loop.id not in faulty, -loop.busy))
    return {loop.id for loop in loops[:MAX_LOOPS]}


def us(nanoseconds: float) -> float:
    """Return nanoseconds as microseconds, to the nanosecond."""
    return round(nanoseconds / 1000, 3)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "title": finding.title,
        "evidence": finding.evidence,
        "place": _place(finding.place),
        "source": finding.place.source.strip() if finding.place else "",
        "advice": finding.advice,
        "loop": finding.loop,
    }


def _place(place: Place | None) -> str:
    return str(place) if place is not None else ""


def _distribution(distribution: Distribution) -> dict[str, Any]:
    return {
        "count": distribution.count,
        "longest": us(distribution.longest),
        **{f"p{p}": us(distribution.percentile(p)) for p in (50, 90, 99)},
        "buckets": [[us(bound), count] for bound, count in distribution.buckets],
    }


def _loop(figures: LoopFigures, lanes: Lanes | None, names: Names) -> dict[str, Any]:
    begin = figures.begin

    def at(time: int) -> float | None:
        return us(time - begin) if time else None

    return {
        "id": figures.id,
        "model": figures.model,
        "thread": figures.thread_name,
        "span": us(figures.end - begin),
        "utilization": round(figures.utilization, 5),
        "turns": figures.turns,
        "events": figures.events,
        "dropped": figures.dropped,
        "calls": figures.calls,
        "system_calls": figures.system_calls,
        "tasks_created": figures.tasks_created,
        "tasks_alive": figures.tasks_alive,
        "connections_opened": figures.connections_opened,
        "connections_open": figures.connections_open,
        "turn": _distribution(figures.turn),
        "queue_delay": _distribution(figures.queue_delay),
        "lateness": _distribution(figures.timers.lateness),
        "handler": _distribution(figures.handler),
        "gc_pauses": _distribution(figures.gc.pauses),
        "timeline": _timeline(lanes, figures, names) if lanes else _samples(figures),
        "blocks": [
            {
                "start": us(block.started - begin),
                "duration": us(block.duration),
                "task": block.task,
                "waiting": block.events_waiting,
                "share": round(block.delay_share, 4),
                "stack": [[_place(place), place.source.strip()] for place in block.stack],
            }
            for block in sorted(figures.blocks, key=lambda block: -block.duration)[:MAX_STACKS]
        ],
        "codes": _codes(figures.codes),
        "tasks": [
            {
                "name": task.name or hex(task.id),
                "coroutine": _place(task.coroutine),
                "state": task.state,
                "steps": task.steps,
                "busy": us(task.busy),
                "scheduled": us(task.scheduled),
                "longest": us(task.longest_step),
                "self_wakes": task.self_wakes,
                "waits": task.waiting_for,
                "place": _place(task.waiting_at[-1]) if task.waiting_at else "",
                "stack": [_place(place) for place in task.waiting_at],
            }
            for task in sorted(figures.tasks, key=lambda task: -task.busy)[:MAX_ROWS]
        ],
        "connections": [
            {
                "fd": connection.fd,
                "peer": connection.peer,
                "protocol": connection.protocol,
                "tls": connection.tls,
                "opened": at(connection.opened),
                "closed": at(connection.closed),
                "error": errno.errorcode.get(connection.error, "") if connection.error else "",
                "bytes_in": connection.bytes_in,
                "bytes_out": connection.bytes_out,
                "unread": connection.most_unread,
                "unsent": connection.most_unsent,
                "reading_paused": us(connection.longest_reading_pause),
                "writing_paused": us(connection.longest_writing_pause),
            }
            for connection in figures.connections[:MAX_ROWS]
        ],
        "slow": [
            {
                "kind": call.kind,
                "place": _place(call.place),
                "start": us(call.started - begin),
                "duration": us(call.duration),
                "waiting": call.events_waiting,
            }
            for call in figures.slow[:MAX_ROWS]
        ],
        "jobs": _codes(figures.executor.by_code),
        "timers": _codes(figures.timers.by_code),
        "errors": [
            {
                "kind": error.kind,
                "type": error.type,
                "message": error.message,
                "place": _place(error.place),
                "count": error.count,
            }
            for error in figures.errors[:MAX_ROWS]
        ],
    }


def _codes(codes: Sequence[CodeFigures]) -> list[dict[str, Any]]:
    ranked = sorted(codes, key=lambda code: -code.busy)[:MAX_ROWS]
    return [
        {
            "kind": code.kind,
            "place": _place(code.place),
            "function": code.place.function,
            "file": code.place.file,
            "line": code.place.line,
            "calls": code.calls,
            "busy": us(code.busy),
            "longest": us(code.longest),
        }
        for code in ranked
    ]


def _timeline(lanes: Lanes, figures: LoopFigures, names: Names) -> dict[str, Any]:
    """Return a timeline in microseconds: whole numbers where they are per bucket."""
    begin = figures.begin
    # No record says that a task has ended: the last step of one that is done is near its end. Tasks
    # that follow each other can have one address.
    ended = {
        (task.id, task.created): task.ended or task.last_step + task.longest_step
        for task in figures.tasks
        if task.state == "done"
    }
    texts: dict[str, int] = {}

    def text(name: str) -> int:
        """Return the index of a text in "texts"."""
        return texts.setdefault(name, len(texts))

    def spans(found: Sequence[tuple[int, int, Any]]) -> list[list[Any]]:
        return [[us(start - begin), us(duration), more] for start, duration, more in found]

    def lane(found: Mapping[str, Any], label: str) -> dict[str, Any]:
        end = ended.get((found["id"], found["begin"])) or found["end"]
        made: dict[str, Any] = {
            "label": label,
            "begin": us(found["begin"] - begin) if found["begin"] else None,
            "end": us(end - begin) if end else None,
            "busy": _whole(found["busy"]),
            "spans": spans(found["spans"][:SPANS]),
            "span_count": found["span_count"],
        }
        for key in ("bytes_in", "bytes_out"):
            if key in found:
                made[key] = found[key]
        return made

    loop = lanes["loop"]
    handlers = [
        [us(start - begin), us(duration), kind, text(str(names.handler(kind, code)) or kind), fd]
        for start, duration, kind, code, _task, fd, _number in lanes["handlers"]
    ]
    return {
        "begin": us(lanes["begin"] - begin),
        "end": us(lanes["end"] - begin),
        "width": lanes["width"] / 1000,
        "busy": _whole(loop["busy"]),
        "waiting": _whole(loop["waiting"]),
        "longest": _whole(loop["longest"]),
        "gc": _whole(loop["gc"]),
        "events": loop["events"],
        "bytes_in": loop["bytes_in"],
        "bytes_out": loop["bytes_out"],
        "handlers": handlers,
        "collections": spans(lanes["gc"][:LONGEST]),
        "jobs": [
            [
                us(start - begin),
                us(duration),
                text(str(names.place(code))),
                us(start - queued) if queued else 0,
            ]
            for start, duration, code, queued in lanes["jobs"][:LONGEST]
        ],
        "marks": [
            [us(time - begin), 0, text(names.text(name))] for time, name in lanes["marks"][:LONGEST]
        ],
        "tasks": [
            lane(task, _short(str(names.place(task["code"]))) or "task") for task in lanes["tasks"]
        ],
        "connections": [
            lane(each, f"fd {each['id']} {names.text(each['code'])}".strip())
            for each in lanes["connections"]
        ],
        "texts": list(texts),
    }


def _short(name: str) -> str:
    """Return "function (file:line)" with the last part of the file's path only."""
    return re.sub(r"\(.*/([^/]+:\d+)\)$", r"(\1)", name)


def _whole(nanoseconds: Sequence[int]) -> list[int]:
    return [round(each / 1000) for each in nanoseconds]


def _samples(figures: LoopFigures) -> dict[str, Any]:
    """Return a coarse timeline from the samples: what a live page has."""
    samples = figures.samples
    begin = figures.begin
    width = us(samples[0].end - samples[0].begin) if samples else 1
    return {
        "begin": us(samples[0].begin - begin) if samples else 0,
        "end": us(samples[-1].end - begin) if samples else 1,
        "width": width,
        "busy": _whole([sample.busy for sample in samples]),
        "waiting": _whole([max(sample.end - sample.begin - sample.busy, 0) for sample in samples]),
        "longest": _whole([sample.longest_turn for sample in samples]),
        "gc": _whole([sample.gc for sample in samples]),
        "events": [sample.events for sample in samples],
        "bytes_in": [sample.bytes_in for sample in samples],
        "bytes_out": [sample.bytes_out for sample in samples],
        "handlers": [],
        "collections": [],
        "jobs": [],
        "marks": [],
        "tasks": [],
        "connections": [],
        "texts": [],
    }
