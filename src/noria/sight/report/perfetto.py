"""A recording as a trace for Perfetto (https://ui.perfetto.dev) and the Firefox Profiler.

Each loop has a track with its handlers and the waits between them, and tracks for blocks, garbage
collections and jobs of executors; arrows lead from a handler to those that it has queued, and from
the one that queued a job to the job.
Connections and files are asynchronous events; utilisation, delays and bytes are counters. The
events are not sorted: see `trace_events`.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

from noria._core.recorder.analysis import Analysis
from noria._core.recorder.timeline import Timeline
from noria.sight.names import Names
from noria.sight.observation import Block, LoopFigures, Observation, Place
from noria.sight.recording import JSON, RECORDS, Recording
from noria.sight.report.output_files import write_whole
from noria.sight.report.trace_events import (
    BLOCKS,
    COLLECTIONS,
    HANDLERS,
    WORKERS,
    Events,
    Rows,
    labels,
    metadata,
)

MAX_HANDLERS = 1_000_000  # the longest, if there are more
MAX_FLOWS = 100_000  # arrows between handlers: those that waited longest
MAX_SPANS = 1_000_000  # of each of waits, collections, jobs, files and marks; the first ones
COUNTER_VALUES = 2000  # of each counter
CONNECTIONS, CONNECTION_SPANS = 100, 5000  # whose pauses are shown, and of each the first spans
MAX_ROWS = 900  # tracks of jobs
EVENTS_PER_WRITE = 2000


def write_trace(
    recording: Recording,
    observation: Observation,
    path: str | os.PathLike[str],
    loops: Container[int] | None = None,
) -> int:
    """Write a recording's trace, compressed if *path* ends with .gz; return the file's size.

    *observation* is that of the recording; only *loops* are written. Raises OSError, and
    RecordingError for a damaged recording.
    """
    return write_whole(path, trace(recording, observation, loops))


def trace(
    recording: Recording, observation: Observation, loops: Container[int] | None = None
) -> Iterator[str]:
    """Yield the parts of the trace's JSON. Raises RecordingError for a damaged recording."""
    other = {
        "command": observation.command,
        "python": observation.python,
        "noria": observation.noria,
        "realtime_ns": str(observation.realtime),
    }
    yield f'{{"displayTimeUnit":"ns","otherData":{json.dumps(other)},"traceEvents":[\n'
    chosen = [each for each in observation.loops if loops is None or each.id in loops]
    pid = observation.pid
    name = f"{observation.command or 'process'} ({pid})"
    yield metadata("process_name", pid, 0, {"name": name})
    names = recording.names()
    headers = {loop: each.get("header") for loop, each in recording.loops().items()}
    zero = min((figures.begin for figures in chosen if figures.begin), default=0)
    for figures in chosen:
        events = Events(pid, figures.id, zero)
        known = names.get(figures.id) or Names()
        header = headers.get(figures.id) or {}
        timeline = Timeline(header, recording.records(figures.id))
        flows = _flows(recording, figures.id, header)
        yield from _joined(LoopTrace(events, figures, known, timeline, flows).events())
    yield "\n]}\n"


def _flows(recording: Recording, loop: int, header: dict[str, Any]) -> list[tuple[int, int]]:
    """Return which handler has queued which other one, by their numbers in the records."""
    analysis = Analysis(header, max_flows=MAX_FLOWS)
    for chunk in recording.chunks():
        if chunk.loop == loop and chunk.kind == RECORDS:
            analysis.feed(chunk.body)
        elif (chunk.kind, chunk.loop) == (JSON, loop) and (
            recording.decode(chunk)["what"] == "dropped"
        ):
            analysis.gap()
    return analysis.flows()


def _joined(events: Iterable[str]) -> Iterator[str]:
    """Yield some thousand events at a time, each after a comma."""
    part: list[str] = []
    for event in events:
        part.append(event)
        if len(part) == EVENTS_PER_WRITE:
            yield ",\n" + ",\n".join(part)
            part = []
    if part:
        yield ",\n" + ",\n".join(part)


class LoopTrace:
    """The events of one loop."""

    def __init__(
        self,
        events: Events,
        figures: LoopFigures,
        names: Names,
        timeline: Timeline,
        flows: list[tuple[int, int]],
    ) -> None:
        self._events = events
        self._figures = figures
        self._names = names
        self._timeline = timeline
        self._flows = flows
        self._task_name = _task_names(figures)

    def events(self) -> Iterator[str]:
        """Yield all events."""
        figures = self._figures
        title = f"loop {figures.id}"
        thread = ", ".join(filter(None, (figures.thread_name, figures.model)))
        yield from self._events.track_name(HANDLERS, f"{title} ({thread})" if thread else title)
        yield from self._counters_of_samples()
        yield from self._blocks()
        if self._timeline.end <= self._timeline.begin:
            return
        lanes = self._timeline.lanes(
            buckets=COUNTER_VALUES,
            longest=MAX_HANDLERS,
            tasks=0,
            connections=0,
            spans=MAX_SPANS,
        )
        yield from self._counters(lanes)
        yield from self._collections(lanes["gc"])
        yield from self._jobs(lanes["jobs"])
        yield from self._files(lanes["files"])
        for at, name in lanes["marks"]:
            yield self._events.instant(HANDLERS, at, labels(self._names.text(name), "mark"))
        wait = labels("wait", "wait")
        for start, duration, _ in lanes["waits"]:
            yield self._events.span(HANDLERS, start, duration, wait)
        handlers = lanes["handlers"]
        del lanes
        yield from self._handlers(handlers)
        del handlers
        lanes = self._timeline.lanes(
            buckets=1, longest=0, tasks=0, connections=CONNECTIONS, spans=CONNECTION_SPANS
        )
        yield from self._connections(lanes["connections"])

    def _handlers(self, handlers: list[tuple[int, int, str, int, int, int, int]]) -> Iterator[str]:
        known: dict[tuple[str, int, str, int], str] = {}
        span, task_name = self._events.span, self._task_name
        starts: dict[int, int | None]
        starts = dict.fromkeys(number for flow in self._flows for number in flow)
        for start, duration, kind, code, task, fd, number in handlers:
            if number in starts:
                starts[number] = start
            key = (kind, code, task_name(task, start) if task else "", fd)
            text = known.get(key)
            if text is None:
                text = known[key] = self._handler_labels(*key)
            yield span(HANDLERS, start, duration, text)
        for origin, number in self._flows:
            begin, end = starts[origin], starts[number]
            if begin is not None and end is not None:  # else one is too short to be written
                yield from self._events.flow(2 * number, begin, end, HANDLERS, "queued")

    def _handler_labels(self, kind: str, code: int, task: str, fd: int) -> str:
        place = self._names.handler(kind, code)
        args: dict[str, Any] = {}
        if place.file:
            args["place"] = f"{place.file}:{place.line}"
        if task:
            args["task"] = task
        if fd >= 0:
            args["fd"] = fd
        return labels(place.function or kind, kind, args)

    def _collections(self, collections: list[tuple[int, int, int]]) -> Iterator[str]:
        if collections:
            name = f"loop {self._figures.id}: garbage collections"
            yield from self._events.track_name(COLLECTIONS, name)
        for start, duration, generation in collections:
            text = labels(f"collection of generation {generation}", "gc")
            yield self._events.span(COLLECTIONS, start, duration, text)
            yield self._events.instant(HANDLERS, start, text)

    def _blocks(self) -> Iterator[str]:
        blocks = self._figures.blocks
        if blocks:
            name = f"loop {self._figures.id}: blocked"
            yield from self._events.track_name(BLOCKS, name)
        for block in blocks:
            text = labels(_block_name(block), "block", _block_args(block))
            yield self._events.span(BLOCKS, block.started, block.duration, text)
            yield self._events.instant(HANDLERS, block.started, text)

    def _jobs(self, jobs: list[tuple[int, int, int, int]]) -> Iterator[str]:
        rows = Rows()
        for number, (start, duration, code, queued) in enumerate(sorted(jobs), 1):
            track = WORKERS + min(rows.place(start, start + duration), MAX_ROWS)
            place = self._names.place(code)
            args: dict[str, Any] = {"place": f"{place.file}:{place.line}"} if place.file else {}
            args["queued_us"] = (start - queued) / 1000
            name = place.function or "job"
            yield self._events.span(track, start, duration, labels(name, "job", args))
            if queued:
                yield from self._events.flow(2 * number + 1, queued, start, track, name)
        for row in range(min(rows.count, MAX_ROWS)):
            name = f"loop {self._figures.id}: executor, worker {row + 1}"
            yield from self._events.track_name(WORKERS + row, name)

    def _files(self, files: list[tuple[int, int, int]]) -> Iterator[str]:
        for number, (start, duration, result) in enumerate(files):
            name = "file operation"
            args: dict[str, Any] = {"result": result}
            if result < 0:
                name, args = "file operation failed", {"error": os.strerror(-result)}
            yield from self._events.asynchronous(number, start, duration, name, "file", args)

    def _connections(self, connections: list[dict[str, Any]]) -> Iterator[str]:
        number = 0
        peers = {(each.fd, each.opened): each.peer for each in self._figures.connections}
        for each in connections:
            begin = each["begin"] or self._timeline.begin
            end = each["end"] or self._timeline.end
            protocol = self._names.text(each["code"])
            peer = peers.get((each["id"], each["begin"]), "")
            name = " ".join(filter(None, (f"fd {each['id']}", protocol, peer)))
            args = {"bytes_in": sum(each["bytes_in"]), "bytes_out": sum(each["bytes_out"])}
            yield from self._events.asynchronous(
                number, begin, end - begin, name, "connection", args
            )
            number += 1
            for start, duration, kind in each["spans"]:
                if kind.endswith("paused"):
                    yield from self._events.asynchronous(
                        number, start, duration, f"fd {each['id']}: {kind}", "flow control"
                    )
                    number += 1

    def _counters(self, lanes: dict[str, Any]) -> Iterator[str]:
        loop, width, begin = lanes["loop"], lanes["width"], lanes["begin"]
        title = f"loop {self._figures.id}"
        seconds = width / 1e9
        for index in range(lanes["buckets"]):
            at = begin + round(index * width)
            awake = loop["busy"][index]
            share = awake / (awake + loop["waiting"][index] or 1)
            yield self._events.counter(
                at, f"{title} utilisation (%)", {"value": round(share * 100, 2)}
            )
            yield self._events.counter(
                at, f"{title} events (1/s)", {"value": round(loop["events"][index] / seconds)}
            )
            received, sent = loop["bytes_in"][index], loop["bytes_out"][index]
            yield self._events.counter(
                at,
                f"{title} bytes (1/s)",
                {"received": round(received / seconds), "sent": round(sent / seconds)},
            )

    def _counters_of_samples(self) -> Iterator[str]:
        name = f"loop {self._figures.id} longest queue delay (ms)"
        for sample in self._figures.samples:
            value = round(sample.longest_queue_delay / 1e6, 6)
            yield self._events.counter(sample.begin, name, {"value": value})


def _task_names(figures: LoopFigures) -> Callable[[int, int], str]:
    """Return a function that names the task with an address at a time: addresses are reused."""
    tasks: dict[int, list[tuple[int, str]]] = {}
    for task in figures.tasks:
        tasks.setdefault(task.id, []).append((task.created, task.name))
    for each in tasks.values():
        each.sort()

    def name(task: int, at: int) -> str:
        found = tasks.get(task)
        if not found:
            return f"task {task:#x}"
        if len(found) == 1:
            return found[0][1] or f"task {task:#x}"
        index = bisect.bisect_right(found, at, key=lambda each: each[0])
        return found[max(index - 1, 0)][1] or f"task {task:#x}"

    return name


def _block_name(block: Block) -> str:
    return f"blocked in {block.stack[-1].function}" if block.stack else "blocked"


def _block_args(block: Block) -> dict[str, Any]:
    args: dict[str, Any] = {
        "events_waiting": block.events_waiting,
        "delay_share": round(block.delay_share, 4),
        "gil_held": block.gil_held,
    }
    if block.task:
        args["task"] = block.task
    for number, place in enumerate(reversed(block.stack)):
        args[f"frame {number}"] = _frame(place)
    return args


def _frame(place: Place) -> str:
    return f"{place}: {place.source.strip()}" if place.source else str(place)
