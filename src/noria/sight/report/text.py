"""A recording's figures and findings as plain text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from noria.sight.findings import Finding
from noria.sight.findings import text as finding_text
from noria.sight.findings.places import innermost
from noria.sight.findings.units import duration, plural, size
from noria.sight.observation import (
    CodeFigures,
    ConnectionFigures,
    Distribution,
    LoopFigures,
    Observation,
    Place,
)
from noria.sight.report.document import PERCENTILES
from noria.sight.top import units

MAX_ROWS = 15  # of each table

Row = Sequence[str]


def render(observation: Observation, findings: Sequence[Finding], width: int = 100) -> str:
    """Return the report as lines of at most *width* characters, without a newline at the end."""
    lines = [f"process {observation.pid}: {units.clean(observation.command)}"]
    facts = [f"Python {observation.python}"] if observation.python else []
    facts += [f"noria {observation.noria}"] if observation.noria else []
    if observation.realtime:
        ended = time.localtime(observation.realtime / 1e9)
        facts.append(f"recorded until {time.strftime('%Y-%m-%d %H:%M:%S', ended)}")
    lines.append(", ".join(facts))
    if observation.loops_lost:
        lost = f"{observation.loops_lost:,} (they could not be read in time)"
        lines.append(f"loops not recorded: {lost}")
    lines += ["", *finding_text.render(findings, width).splitlines()]
    for loop in observation.loops:
        lines += ["", *_loop(loop, width)]
    return "\n".join(units.clipped(line.rstrip(), width) for line in lines)


def _loop(loop: LoopFigures, width: int) -> Iterator[str]:
    span = loop.end - loop.begin
    seconds = span / 1e9 or 1.0
    title = ", ".join(filter(None, (loop.model, units.clean(loop.thread_name))))
    yield f"loop {loop.id}: {title}" if title else f"loop {loop.id}"
    yield from _pairs(
        [
            ("observed", f"{duration(span)}, {loop.records:,} records"),
            ("lost records", f"{loop.dropped:,}" if loop.dropped else ""),
            ("utilisation", f"{loop.utilization:.1%}"),
            ("events", f"{loop.events:,} ({units.rate(loop.events / seconds)})"),
            ("turns", f"{loop.turns:,}, {loop.empty_polls:,} of {loop.polls:,} polls empty"),
            ("system calls", f"{loop.calls:,} ({loop.calls_per_event:.2f} for each event)"),
            ("bytes", _traffic(loop.connections)),
            ("tasks", _tasks(loop)),
            (
                "connections",
                f"{loop.connections_opened:,} opened, {loop.connections_open:,} open at the end",
            ),
            ("timers", f"{loop.timers.fired:,} fired" if loop.timers.fired else ""),
            ("files", _files(loop)),
            ("executor", _executor(loop)),
            ("collections", _collections(loop, span)),
            ("blocked", _blocked(loop)),
        ]
    )
    yield ""
    yield from _table(
        ["duration", "count", "mean", *(f"p{each:g}" for each in PERCENTILES), "longest"],
        [
            _distribution(name, each)
            for name, each in (
                ("turn", loop.turn),
                ("handler", loop.handler),
                ("queue delay", loop.queue_delay),
                ("timer lateness", loop.timers.lateness),
                ("job's wait", loop.executor.waiting),
                ("job", loop.executor.duration),
                ("file operation", loop.files.duration),
                ("collection", loop.gc.pauses),
            )
            if each.count
        ],
        width,
    )
    yield from _codes("Time in handlers", loop.codes, loop.busy, width)
    slow = sorted(loop.slow, key=lambda call: -call.duration)
    yield from _section(
        "Longest calls",
        ["kind", "at", "duration", "waiting", "place"],
        [
            [
                call.kind,
                f"{max(call.started - loop.begin, 0) / 1e9:.3f} s",
                duration(call.duration),
                f"{call.events_waiting:,}",
                _place(call.place),
            ]
            for call in slow
        ],
        width,
    )
    yield from _section(
        "Tasks",
        ["task", "state", "busy", "steps", "longest", "place"],
        [
            [
                units.clipped(units.clean(task.name), 24),
                task.state,
                duration(task.busy),
                f"{task.steps:,}",
                duration(task.longest_step),
                _place(innermost(task.waiting_at) or task.coroutine),
            ]
            for task in sorted(loop.tasks, key=lambda task: -task.busy)
        ],
        width,
    )
    yield from _section(
        "Connections",
        ["fd", "received", "sent", "unread", "unsent", "peer", "protocol"],
        [
            [
                str(each.fd),
                size(each.bytes_in),
                size(each.bytes_out),
                size(each.most_unread) if each.most_unread else "",
                size(each.most_unsent) if each.most_unsent else "",
                units.clean(each.peer),
                units.clean(each.protocol),
            ]
            for each in sorted(loop.connections, key=lambda each: -(each.bytes_in + each.bytes_out))
        ],
        width,
    )
    yield from _codes("Jobs of executors", loop.executor.by_code, 0, width)
    yield from _codes("Timers", loop.timers.by_code, 0, width)
    yield from _section(
        "Errors",
        ["count", "kind", "type", "place"],
        [
            [f"{each.count:,}", each.kind, units.clean(each.type), _place(each.place)]
            for each in loop.errors
        ],
        width,
    )


def _pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, value in pairs:
        if value:
            yield f"  {name:13} {value}"


def _tasks(loop: LoopFigures) -> str:
    created = f"{loop.tasks_created:,} created"
    alive = loop.tasks_alive
    return created if alive is None else f"{created}, {alive:,} alive at the end"


def _traffic(connections: Sequence[ConnectionFigures]) -> str:
    received = sum(each.bytes_in for each in connections)
    sent = sum(each.bytes_out for each in connections)
    return f"{size(received)} received, {size(sent)} sent" if received or sent else ""


def _files(loop: LoopFigures) -> str:
    files = loop.files
    return f"{plural(files.begun, 'operation')}, {files.failed:,} failed" if files.begun else ""


def _executor(loop: LoopFigures) -> str:
    executor = loop.executor
    if not executor.submitted:
        return ""
    limit = executor.max_workers
    workers = f", at most {plural(limit, 'worker')}" if limit else ""
    return f"{plural(executor.submitted, 'job')}, {executor.finished:,} finished{workers}"


def _collections(loop: LoopFigures, span: int) -> str:
    pauses = loop.gc.pauses
    if not pauses.count:
        return ""
    share = units.share(pauses.total / span) if span else ""
    return f"{pauses.count:,}, {duration(pauses.total)} ({share} of the time)"


def _blocked(loop: LoopFigures) -> str:
    if not loop.blocks:
        return ""
    total = sum(block.duration for block in loop.blocks)
    times = "once" if len(loop.blocks) == 1 else f"{len(loop.blocks):,} times"
    return f"{times}, for {duration(total)}"


def _distribution(name: str, distribution: Distribution) -> Row:
    return [
        name,
        f"{distribution.count:,}",
        duration(distribution.mean),
        *(duration(distribution.percentile(percent)) for percent in PERCENTILES),
        duration(distribution.longest),
    ]


def _codes(title: str, codes: Sequence[CodeFigures], busy: int, width: int) -> Iterator[str]:
    """Yield a table of functions; with *busy*, their shares of it."""
    used = [code for code in codes if code.calls]
    yield from _section(
        title,
        ["kind", "calls", "time", *(["share"] if busy else []), "longest", "place"],
        [
            [
                code.kind,
                f"{code.calls:,}",
                duration(code.busy),
                *([units.share(code.busy / busy)] if busy else []),
                duration(code.longest),
                _place(code.place),
            ]
            for code in sorted(used, key=lambda code: -code.busy)
        ],
        width,
    )


def _place(place: Place) -> str:
    return units.clean(str(place))


def _section(title: str, columns: Sequence[str], rows: Sequence[Row], width: int) -> Iterator[str]:
    """Yield a table with a title, or nothing without rows."""
    if not rows:
        return
    yield ""
    yield title
    yield from _table(columns, rows[:MAX_ROWS], width)
    if len(rows) > MAX_ROWS:
        yield f"  … and {len(rows) - MAX_ROWS:,} more"


def _table(columns: Sequence[str], rows: Sequence[Row], width: int) -> Iterator[str]:
    """Yield the lines of a table; numbers are aligned to the right."""
    if not rows:
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    numeric = [
        all(not row[index] or row[index][0] in "<0123456789" for row in rows)
        for index in range(len(columns))
    ]
    for cells in (columns, *rows):
        line = "  ".join(
            cell.rjust(space) if right else cell.ljust(space)
            for cell, space, right in zip(cells, widths, numeric, strict=True)
        )
        yield f"  {line}"
