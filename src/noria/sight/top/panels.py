"""The figures above the tables: of the loop, the timers, files and the executor."""

from __future__ import annotations

from noria.sight.findings.places import innermost
from noria.sight.observation import Block, LoopFigures, Observation, SlowCall
from noria.sight.top import units
from noria.sight.top.history import LoopHistory
from noria.sight.top.lines import (
    LABEL_WIDTH,
    Line,
    coloured,
    figure_line,
    heading,
    histogram_lines,
    label,
    percentile_header,
    percentile_line,
    spark,
    utilization_level,
)
from noria.sight.top.rates import LoopRates
from noria.sight.top.sparkline import bar, sparkline
from noria.sight.top.tables import BAD, DIM, PLAIN, STRONG, WARN

SPARK_COLUMN = 51  # where sparklines begin: behind the percentiles
LATE = 100_000_000  # ns: a timer that is later is red
MAX_SLOW = 5
GC_BAD = 100_000_000  # ns
EXECUTOR_BAD = 10_000_000_000  # ns that a job waits


def loop_panel(
    observation: Observation,
    loop: LoopFigures,
    rates: LoopRates,
    history: LoopHistory,
    width: int,
    height: int,
    ascii: bool = False,
) -> list[Line]:
    """Return the figures of a loop in *width* characters; more than 24 lines of *height* are used.

    Percentiles are of the last interval; sparklines show the intervals before it.
    """
    tall = 4 if height >= 40 else 2
    lines = _utilization_lines(rates, history, width, tall, ascii)
    bad = observation.max_block or 100_000_000

    def series(name: str) -> list[float]:
        return history.series(name, width)

    lines.append(percentile_header(width))
    lines.append(
        percentile_line("turn", rates.turn, series("turn_longest"), width, bad=bad, ascii=ascii)
    )
    lines.append(
        percentile_line(
            "queue delay", rates.queue_delay, series("delay_longest"), width, bad=bad, ascii=ascii
        )
    )
    lines.append(
        percentile_line(
            "timers late", rates.lateness, series("lateness_longest"), width, bad=LATE, ascii=ascii
        )
    )
    if height >= 30:
        lines.append([])
    at = SPARK_COLUMN
    events = f"  {units.rate(rates.events)}".ljust(16)
    kinds = ""
    if rates.events:
        io, steps = rates.io / rates.events, rates.steps / rates.events
        kinds = f"{io:.0%} I/O, {steps:.0%} steps"
    lines.append(
        figure_line("events", events + kinds, series("events"), width, ascii=ascii, spark_at=at)
    )
    calls = f"  {rates.calls_per_event:.2f} an event".ljust(16) + units.rate(rates.calls)
    lines.append(
        figure_line(
            "system calls", calls, series("calls_per_event"), width, ascii=ascii, spark_at=at
        )
    )
    polls = f"  {units.rate(rates.empty_polls)}".ljust(16)
    if rates.polls:
        polls += f"{units.share(rates.empty_poll_share) or '0%'} of {units.rate(rates.polls)}"
    lines.append(figure_line("empty polls", polls, [], width, ascii=ascii))
    moved = (
        f"  {units.size(rates.bytes_in)}/s in".ljust(16) + f"{units.size(rates.bytes_out)}/s out"
    )
    lines.append(figure_line("bytes", moved, series("bytes_out"), width, ascii=ascii, spark_at=at))
    lines.append(_gc_line(rates, series("gc"), width, ascii))
    if rates.dropped:
        text = f"  {units.number(rates.dropped)} records were overwritten before they were read"
        lines.append([label("lost"), (text, WARN)])
    call = loop.running_call
    if call is not None and call.duration >= bad:
        lines.append(_running_line(call))
    elif loop.blocks:
        lines.append(block_line(loop.blocks, observation.now))
    if height >= 40 and loop.slow:
        lines += [[], heading("Longest calls"), *_slow_lines(loop, observation.now)]
    return lines


def _running_line(call: SlowCall) -> Line:
    """Return which handler blocks the loop now."""
    text = f"  NOW, for {units.duration(call.duration)}, by a {call.kind}: "
    place = units.line_and_function(call.place) or "unknown code"
    return [label("blocked"), (text, BAD), (place, STRONG)]


def _slow_lines(loop: LoopFigures, now: int) -> list[Line]:
    """Return the longest calls of handlers."""
    lines: list[Line] = []
    for call in loop.slow[:MAX_SLOW]:
        length = f" {units.duration(call.duration):>8}  "
        ago = f"{units.duration(max(now - call.started, 0))} ago".ljust(12)
        waiting = f"  {call.events_waiting} events waited" if call.events_waiting else ""
        place = units.line_and_function(call.place)
        lines.append(
            [(length, STRONG), (ago + call.kind.ljust(10), DIM), (place, PLAIN), (waiting, DIM)]
        )
    return lines


def _utilization_lines(
    rates: LoopRates, history: LoopHistory, width: int, height: int, ascii: bool
) -> list[Line]:
    """Return the utilisation as a number and as columns of *height* lines."""
    level = utilization_level(rates.utilization)
    figure = (f"{units.share(rates.utilization) or '0%':>6}", f"{level} {STRONG}")
    left = LABEL_WIDTH + 6
    columns = width - left - 1
    lines: list[Line] = [[label("utilisation"), figure]]
    if columns < 8:
        return lines
    series = history.series("utilization", columns)
    rows = sparkline(series, columns - 2, height, top=1.0, ascii=ascii)
    lines[0].append(("  ", PLAIN))
    lines[0] += coloured(rows[0], series, utilization_level)
    blank = (" " * (left + 2), PLAIN)
    return lines + [[blank, *coloured(row, series, utilization_level)] for row in rows[1:]]


def _gc_line(rates: LoopRates, series: list[float], width: int, ascii: bool) -> Line:
    collections = sum(rates.collections)
    if not rates.gc.count:
        return figure_line("garbage", "  none", [], width, ascii=ascii)
    text = f"  {units.share(rates.gc_share) or '0%'} of time".ljust(16)
    full = f" ({rates.collections[2]} full)" if len(rates.collections) > 2 else ""
    text += f"{collections} runs{full if rates.collections[2:] != [0] else ''}"
    text += f", max {units.duration(rates.gc.longest)}"
    line = figure_line("garbage", text, series, width, ascii=ascii, spark_at=SPARK_COLUMN)
    if rates.gc.longest >= GC_BAD:
        line[1] = line[1][0], BAD
    return line


def block_line(blocks: list[Block], now: int) -> Line:
    """Return how often the loop was blocked, and the newest block."""
    newest = max(blocks, key=lambda block: block.started)
    place = innermost(newest.stack)
    times = "once" if len(blocks) == 1 else f"{len(blocks)} times"
    if not newest.ended:
        text = f"  NOW, for {units.duration(now - newest.started)}: "
    else:
        ago = units.duration(now - newest.started - newest.duration)
        longest = units.duration(max(block.duration for block in blocks))
        text = f"  {times}, longest {longest}, {ago} ago: "
    return [label("blocked"), (text, BAD), (units.line_and_function(place), STRONG)]


def timers_panel(
    loop: LoopFigures,
    rates: LoopRates,
    history: LoopHistory,
    width: int,
    height: int,
    ascii: bool = False,
) -> list[Line]:
    """Return the timers: how many, how late, and a histogram of lateness over all of the time."""
    timers = loop.timers
    text = f"  {units.number(timers.pending)} pending, {units.rate(rates.timers)} run"
    lines = [
        figure_line("timers", text, [], width, ascii=ascii),
        percentile_header(width),
        percentile_line(
            "late",
            rates.lateness,
            history.series("lateness_longest", width),
            width,
            bad=LATE,
            ascii=ascii,
        ),
        percentile_line("  since begin", timers.lateness, [], width, bad=LATE, ascii=ascii),
        [],
        heading("Lateness"),
    ]
    lines += histogram_lines(timers.lateness, width, 5 if height >= 40 else 3, ascii)
    return [*lines, []]


def files_panel(
    loop: LoopFigures,
    rates: LoopRates,
    history: LoopHistory,
    width: int,
    height: int,
    ascii: bool = False,
) -> list[Line]:
    """Return operations on files, and the executor with its queue."""
    files, executor = loop.files, loop.executor
    text = f"  {units.rate(rates.files)}, {files.in_flight} in flight"
    if files.failed:
        text += f", {units.number(files.failed)} failed"
    lines = [
        percentile_header(width),
        figure_line(
            "files", text, history.series("files", width), width, ascii=ascii, spark_at=SPARK_COLUMN
        ),
        percentile_line("  duration", rates.file_duration, [], width, ascii=ascii),
        [],
    ]
    workers = executor.max_workers or executor.workers
    busy = executor.running / workers if workers else 0.0
    text = f"  {executor.running} of {workers} busy " if workers else "  no workers"
    line: Line = [label("executor"), (text, PLAIN)]
    if workers:
        line.append(
            (bar(busy, min(workers, 16), ascii), BAD if busy >= 1 else utilization_level(busy))
        )
        queued = f"  {units.number(executor.queued)} queued"
        line.append((queued, WARN if executor.queued else DIM))
        used = sum(len(part) for part, _ in line)
        if used < SPARK_COLUMN:
            line.append((" " * (SPARK_COLUMN - used), PLAIN))
            line += spark(history.series("jobs", width), width - SPARK_COLUMN, ascii=ascii)
    lines.append(line)
    lines.append(
        percentile_line("  queued for", rates.job_waiting, [], width, bad=EXECUTOR_BAD, ascii=ascii)
    )
    lines.append(percentile_line("  ran for", rates.job_duration, [], width, ascii=ascii))
    return [*lines, []]
