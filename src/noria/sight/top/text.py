"""An observation as plain text, for `--once`, pipes and terminals without cursor movement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from noria.sight.observation import LoopFigures
from noria.sight.top import units
from noria.sight.top.codes import code_table, item_key
from noria.sight.top.connections import connection_items, connection_table
from noria.sight.top.details import finding_detail
from noria.sight.top.lines import Line, cropped
from noria.sight.top.panels import files_panel, loop_panel, timers_panel
from noria.sight.top.session import Session, View
from noria.sight.top.tables import BAD, DIM, STRONG, WARN, Column, Row, Table, fit
from noria.sight.top.tasks import task_items, task_table
from noria.sight.top.tree import task_tree

R = TypeVar("R")

HEIGHT = 24  # the panels are as on a small terminal
MAX_ROWS = 30  # of each table; a line says how many there are more
Paint = Callable[[str, str], str]  # (text, style) to what is written


def unpainted(text: str, style: str) -> str:
    """Return the text without its style."""
    return text


def view_text(
    session: Session, view: View, width: int, paint: Paint = unpainted, ascii: bool = False
) -> str:
    """Return everything in a view as lines of at most *width* characters."""
    observation = view.observation
    title = f"process {observation.pid}: {units.clean(observation.command)}"
    facts = [f"Python {observation.python}"] if observation.python else []
    facts += [f"noria {observation.noria}"] if observation.noria else []
    lines: list[Line] = [[(title, STRONG)], [(", ".join(facts), DIM)]]
    if view.ended:
        lines.append([("The process has ended: these are its last figures.", WARN)])
    elif not observation.answering:
        silent = units.duration(observation.silent)
        lines.append(
            [(f"The process has not answered for {silent}: only its recording is shown.", BAD)]
        )
    if not observation.loops:
        lines.append([("No loop has run in it yet.", DIM)])
    for loop in observation.loops:
        lines += _loop_lines(session, view, loop, width, ascii)
    if view.findings:
        lines.append([])
        lines.append([("Findings", STRONG)])
    for finding in view.findings:
        lines += finding_detail(finding, observation, width, ascii)
        lines.append([])
    return "\n".join(_painted(cropped(_stripped(line), width), paint) for line in lines)


def _loop_lines(
    session: Session, view: View, loop: LoopFigures, width: int, ascii: bool
) -> Iterable[Line]:
    observation, rates = view.observation, view.rates[loop.id]
    history = session.history(loop.id)
    title = [f"Loop {loop.id}", loop.model, units.clean(loop.thread_name)]
    title += [] if loop.running else ["not running"]
    yield []
    yield [
        (", ".join(filter(None, title)), STRONG),
        (f"  figures of {units.duration(rates.seconds * 1e9)}", DIM),
    ]
    yield from loop_panel(observation, loop, rates, history, width, HEIGHT, ascii)
    yield []
    codes = code_table("function")
    yield from table_lines(codes, codes.rows(rates.codes, item_key), width)
    tasks = task_table()
    rows = task_tree(task_items(loop, rates, observation.now, ended=False), tasks, ascii)
    if rows:
        yield []
        yield from table_lines(tasks, rows, width)
    connections = connection_table()
    items = connection_items(loop, rates, observation.now, ended=False)
    if items:
        yield []
        yield from table_lines(connections, connections.rows(items, lambda item: item.key), width)
    if loop.timers.fired:
        yield []
        yield from timers_panel(loop, rates, history, width, HEIGHT, ascii)
    if loop.files.begun or loop.executor.submitted:
        yield []
        yield from files_panel(loop, rates, history, width, HEIGHT, ascii)
        jobs = code_table("job", alarming=False, kinds=False)
        yield from table_lines(jobs, jobs.rows(rates.job_codes, item_key), width)


def table_lines(
    table: Table[R], rows: list[Row[R]], width: int, limit: int = MAX_ROWS
) -> Iterable[Line]:
    """Return the header and at most *limit* rows of a table."""
    columns = fit(table.columns, width)
    yield [(cell_text(column.title, column, space) + " ", DIM) for column, space in columns]
    for row in rows[:limit]:
        yield row_line(row, columns)
    if len(rows) > limit:
        yield [(f"and {len(rows) - limit:,} more", DIM)]


def row_line(row: Row[R], columns: list[tuple[Column[R], int]]) -> Line:
    """Return the cells of a row, each as wide as its column and with a space behind it."""
    line: Line = []
    for position, (column, width) in enumerate(columns):
        text, style = column.cell(row.item)
        if position == 0 and row.branch:
            branch = units.clipped(row.branch, width)
            line.append((branch, DIM))
            width -= len(branch)
        line.append((cell_text(text, column, width) + " ", DIM if row.dimmed else style))
    return line


def cell_text(text: str, column: Column[R], width: int) -> str:
    """Return the text of a cell, cut or padded to *width* characters."""
    text = units.clipped(text, width)
    return text.rjust(width) if column.right else text.ljust(width)


def _painted(line: Line, paint: Paint) -> str:
    return "".join(paint(text, style) for text, style in line)


def _stripped(line: Line) -> Line:
    """Return a line without spaces at its end."""
    while line and not line[-1][0].rstrip():
        line = line[:-1]
    if line:
        text, style = line[-1]
        line = [*line[:-1], (text.rstrip(), style)]
    return line
