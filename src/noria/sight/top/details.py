"""Everything about one row: a task, a connection, a function, a finding."""

from __future__ import annotations

import errno
import textwrap
from collections.abc import Sequence

from noria.sight.findings import Finding
from noria.sight.findings.places import innermost
from noria.sight.observation import Block, LoopFigures, Observation, Place
from noria.sight.top import units
from noria.sight.top.connections import ConnectionItem
from noria.sight.top.finding_table import severity_style
from noria.sight.top.history import LoopHistory
from noria.sight.top.lines import Line, heading, label, place_lines, spark
from noria.sight.top.rates import CodeRates
from noria.sight.top.tables import BAD, DIM, PLAIN, STRONG
from noria.sight.top.tasks import TaskItem, state_cell

MAX_BLOCKS = 5  # of a function, the newest


def _facts(facts: Sequence[tuple[str, str]]) -> list[Line]:
    return [[label(name), (text, PLAIN)] for name, text in facts if text]


def _series(
    name: str, text: str, series: Sequence[float], width: int, ascii: bool, top: float = 0.0
) -> Line:
    figure = f"{text:>11}"
    return [label(name), (figure, PLAIN), *spark(series, width - 26, ascii=ascii, top=top)]


def _ago(moment: int, now: int) -> str:
    return f"{units.duration(max(now - moment, 0))} ago" if moment else ""


def task_detail(
    item: TaskItem, loop: LoopFigures, history: LoopHistory, width: int, ascii: bool = False
) -> list[Line]:
    """Return a task's figures, its last intervals, and its await stack with source lines."""
    task = item.task
    names = {each.id: each.name or hex(each.id) for each in loop.tasks}
    waits = f"{units.clean(task.waiting_for)} for {units.duration(item.waits)}"
    busy, steps = history.row(history.tasks, item.key)
    state, style = state_cell(item)
    lines: list[Line] = [
        [(f" {units.clean(task.name) or 'task'}", STRONG), ("  ", PLAIN), (state, style)],
        [],
        *_facts(
            [
                ("coroutine", units.clean(str(task.coroutine))),
                ("id", hex(task.id) + (", the loop runs until it is done" if task.main else "")),
                ("created", _ago(task.created, item.now)),
                (
                    "busy",
                    f"{units.duration(task.busy)} in {units.number(task.steps)} steps"
                    + (
                        f", longest {units.duration(task.longest_step)}"
                        if task.longest_step
                        else ""
                    ),
                ),
                ("scheduled", units.duration(task.scheduled) + " between wake-ups and steps"),
                ("idle", units.duration(item.idle) if item.age else ""),
                ("self wake-ups", units.number(task.self_wakes) if task.self_wakes else ""),
                ("waits for", waits if task.waiting_for else ""),
                (
                    "awaited by",
                    ", ".join(units.clean(names.get(each, hex(each))) for each in task.awaited_by),
                ),
            ]
        ),
    ]
    if task.orphaned:
        text = " It awaits a future that nothing else refers to: nothing can resume it."
        lines += [[], [(text, BAD)]]
    lines += [
        [],
        _series("busy", units.share(item.rates.busy) or "0%", busy, width, ascii, top=1.0),
        _series("steps", units.rate(item.rates.steps), steps, width, ascii),
        [],
        heading("Await stack, outermost first"),
    ]
    for place in task.waiting_at:
        lines += place_lines(place, ascii, context=2)
    if not task.waiting_at:
        lines.append([(" not known: the program has not answered, or the task has ended", DIM)])
    return lines


def connection_detail(
    item: ConnectionItem, history: LoopHistory, width: int, ascii: bool = False
) -> list[Line]:
    """Return a connection's figures, its last intervals, and the code that uses it."""
    connection, now = item.connection, item.now
    received, sent = history.row(history.connections, item.key)
    which, pause = item.pause
    unread = f"{units.size(connection.unread)} in the kernel for {units.duration(item.unread_for)}"
    unsent = (
        f"{units.size(connection.unsent)} in noria, "
        f"{units.size(connection.unsent_in_kernel)} in the kernel, not acknowledged"
    )
    facts = [
        ("local", units.clean(connection.local)),
        ("protocol", units.clean(connection.protocol)),
        ("TLS", units.clean(connection.tls)),
        ("descriptor", str(connection.fd)),
        ("opened", _ago(connection.opened, now)),
        ("closed", _ago(connection.closed, now)),
        ("ended by", errno.errorcode.get(connection.error, "") if connection.error else ""),
        (
            "received",
            f"{units.size(connection.bytes_in)} in {units.number(connection.receives)} "
            f"receives, last {_ago(connection.last_received, now) or 'never'}",
        ),
        (
            "sent",
            f"{units.size(connection.bytes_out)} in {units.number(connection.sends)} sends, "
            f"last {_ago(connection.last_sent, now) or 'never'}",
        ),
        (
            "blocked sends",
            units.number(connection.blocked_sends) if connection.blocked_sends else "",
        ),
        ("unread", unread if connection.unread else ""),
        ("in the reader", units.size(connection.buffered) if connection.buffered else ""),
        ("unsent", unsent if item.unsent else ""),
        (
            "paused",
            f"{'reading and writing' if which == 'both' else which} for {units.duration(pause)}"
            if which
            else "",
        ),
        ("most unread", units.size(connection.most_unread) if connection.most_unread else ""),
        ("most unsent", units.size(connection.most_unsent) if connection.most_unsent else ""),
    ]
    lines: list[Line] = [
        [(f" {item.label}", STRONG)],
        [],
        *_facts(facts),
        [],
        _series("in", units.size(item.rates.bytes_in) + "/s", received, width, ascii),
        _series("out", units.size(item.rates.bytes_out) + "/s", sent, width, ascii),
    ]
    for title, place in (
        ("Read by", connection.user or connection.handler),
        ("Opened at", connection.opened_at),
        ("Reading was last paused at", connection.paused_at),
        ("Writing was last paused by", connection.written_at),
        ("Most repeated sends are made by", connection.sender),
    ):
        if place is not None:
            lines += [[], heading(title), *place_lines(place, ascii, context=2)]
    return lines


def code_detail(
    item: CodeRates, observation: Observation, loop: LoopFigures, width: int, ascii: bool = False
) -> list[Line]:
    """Return a function's figures, its slowest calls, and the blocks in which it ran."""
    code, now = item.code, observation.now
    lines: list[Line] = [
        [(f" {units.clean(code.place.function) or 'no name'}", STRONG), (f"  {code.kind}", DIM)],
        [],
        *_facts(
            [
                ("calls", f"{units.number(code.calls)}, {units.rate(item.calls)}"),
                (
                    "busy",
                    f"{units.duration(code.busy)}, now {units.share(item.busy) or '0%'} of time",
                ),
                ("mean", units.duration(code.busy / code.calls) if code.calls else ""),
                ("longest", units.duration(code.longest)),
            ]
        ),
        [],
        heading("Source"),
        *place_lines(code.place, ascii, context=6),
    ]
    slow = [call for call in loop.slow if _same_code(call.place, code.place)]
    if slow:
        lines += [[], heading("Longest calls")]
        for call in slow[:MAX_BLOCKS]:
            waiting = f", {call.events_waiting} events waited" if call.events_waiting else ""
            text = f" {units.duration(call.duration):>7}  {_ago(call.started, now)}{waiting}"
            lines.append([(text, PLAIN)])
    blocks = [
        block
        for block in loop.blocks
        if any(_same_code(frame, code.place) for frame in block.stack)
    ]
    return lines + _newest_block_lines(blocks, now, ascii)


def _same_code(place: Place, other: Place) -> bool:
    return (place.function, place.file) == (other.function, other.file)


def _newest_block_lines(blocks: list[Block], now: int, ascii: bool) -> list[Line]:
    """Return the stack of the newest block; nothing if there is none."""
    if not blocks:
        return []
    block = blocks[-1]
    length, ago = units.duration(block.duration), _ago(block.started, now)
    lines: list[Line] = [[], heading(f"The loop was blocked for {length}, {ago}")]
    for place in block.stack:
        lines += place_lines(place, ascii)
    return lines


def finding_detail(
    finding: Finding, observation: Observation, width: int, ascii: bool = False
) -> list[Line]:
    """Return a finding's evidence, place and advice; of a blocked loop also the stack."""
    dot = "-" if ascii else "•"
    lines: list[Line] = [
        [(f" {finding.severity}", severity_style(finding)), (f"  {finding.kind}", DIM)],
        *_wrapped(finding.title, width, STRONG),
        [],
    ]
    for sentence in finding.evidence:
        lines += _wrapped(sentence, width, PLAIN, f" {dot} ")
    if finding.place is not None:
        lines += [[], *place_lines(finding.place, ascii, context=3)]
    lines += [[], *_wrapped(finding.advice, width, PLAIN)]
    if finding.kind == "loop-blocked":
        blocks = [
            block
            for loop in observation.loops
            if loop.id == finding.loop
            for block in loop.blocks
            if innermost(block.stack) == finding.place
        ]
        lines += _newest_block_lines(blocks, observation.now, ascii)
    return lines


def _wrapped(text: str, width: int, style: str, first: str = " ") -> list[Line]:
    lines = textwrap.wrap(
        units.clean(text),
        max(min(width, 100) - 2, 20),
        initial_indent=first,
        subsequent_indent=" " * len(first),
    )
    return [[(line, style)] for line in lines]
