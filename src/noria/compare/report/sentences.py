"""Describes each figure in sentences computed from the numbers.

A sentence states a difference only if noria.compare.report.standings found one; its Statement then
has the same difference as claims. A sentence is omitted if its numbers are missing; without any,
the paragraph says that nothing was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from noria.compare.report import document, standings, words
from noria.compare.report.document import Row, number
from noria.compare.report.standings import Claim, Growth, Standing
from noria.compare.statistics import Spread


@dataclass(frozen=True)
class Statement:
    """One or two sentences, and every difference between candidates that they state."""

    text: str
    claims: list[Claim] = field(default_factory=list)


def throughput(results: dict[str, Any]) -> list[Statement]:
    """The fastest models, those behind them, and the cost of a message."""
    found = [
        row
        for row in document.rows(results, "throughput")
        if number(row, "connections") is not None and number(row, "messages_per_second")
    ]
    if not found:
        return [Statement("Throughput was not measured.")]
    counts = _ends(document.counts(found, "connections"))
    statements = [_fastest(results, connections) for connections in counts]
    statements += _cost(results, found)
    statements += _unserved(results, found)
    return [statement for statement in statements if statement.text]


def phases(results: dict[str, Any]) -> list[Statement]:
    """The time from send to handler, who copied, and the empty polls."""
    samples = document.phase_samples(results)
    if not samples:
        return [Statement("The two phases were not measured.")]
    found = standings.handler(results)
    statements = [
        _ranking(
            _in_microseconds(found),
            unit="µs",
            alone="On {name} the handler ran {value} after the send.",
            best="From send to handler {name} took the shortest time, {value}",
            equal="From send to handler no difference could be measured between {names}: {value}",
            behind="{name} took {times} as long{as_what}",
        )
    ]
    copied = {
        str(row["model"]): row["copy_end"] - row["copy_begin"]
        for row in samples
        if number(row, "copy_begin") is not None and number(row, "copy_end") is not None
    }
    size = number(document.section(results, "phases"), "size")
    if copied:
        what = f"The copy of {words.size(size)}" if size else "The copy"
        least, most = (words.nanoseconds(end(copied.values())) for end in (min, max))
        between = least if least == most else f"{least} to {most}"
        statements.append(
            Statement(f"{what} by the process took {between} on {words.names(copied)}.")
        )
    delays = [
        row["ready"] - row["arrived"]
        for row in samples
        if number(row, "ready") is not None and number(row, "arrived") is not None
    ]
    if delays and median(delays) > 0:
        statements.append(
            Statement(
                f"Where the kernel reports readiness, the process knew of the data "
                f"{words.nanoseconds(median(delays))} after its arrival (median of the models)."
            )
        )
    for row in samples:
        asks = number(row, "asks")
        if asks:
            polls = words.count(int(asks), "poll")
            statements.append(
                Statement(f"{polls} of {row['model']} found no data before this message.")
            )
    free = [str(row["model"]) for row in samples if _synchronous(results, row) is False]
    if free:
        statements.append(
            Statement(
                f"On {words.names(free)} the process was free in both phases: the kernel waited "
                f"and copied before the handler ran."
            )
        )
    elif any(_synchronous(results, row) for row in samples):
        statements.append(
            Statement("On every model measured here the process is blocked in at least one phase.")
        )
    return statements


def waiting(results: dict[str, Any]) -> list[Statement]:
    """The models that served one client after the other, and how soon the others answered all."""
    answers = {name: times for name, times in document.first_answers(results).items() if times}
    if not answers:
        return [Statement("Waiting clients were not measured.")]
    part = document.section(results, "waiting")
    hold = number(part, "hold_ms")
    clients = int(number(part, "clients") or max(map(len, answers.values())))
    statements = []
    queued = [name for name in answers if _serves_one(results, name)]
    for name in queued:
        second, last = (standings.answer(results, which, [name]) for which in ("second", "last"))
        if name not in second.spreads:
            continue
        cause = f", because each client stays connected for {hold:g} ms" if hold else ""
        text = f"On {name} the second client waited {words.about(second.spreads[name], 'ms')}"
        if clients > 2 and name in last.spreads:
            text += f", the last {words.about(last.spreads[name], 'ms')}"
        statements.append(Statement(f"{text}{cause}."))
    together = [name for name in answers if name not in queued]
    found = standings.answer(results, "last", together)
    who = "Among the other models, " if queued else ""
    statements.append(
        _ranking(
            found,
            unit="ms",
            alone="{name} had answered every client after {value}.",
            best=who + "{name} had answered every client first, after {value}",
            equal=who
            + "{names} had answered every client after {value}; no difference between them "
            "could be measured",
            behind="{name} took {times} as long{as_what}",
        )
    )
    for name, times in answers.items():
        if len(times) < clients:
            statements.append(
                Statement(f"On {name} only {len(times)} of {clients} clients received an answer.")
            )
    return [statement for statement in statements if statement.text]


def idle(results: dict[str, Any]) -> list[Statement]:
    """What idle connections add to the cost of a message, and where a curve ends."""
    found = [row for row in document.rows(results, "idle") if number(row, "idle") is not None]
    keys = [key for key in standings.IDLE_COLUMNS if any(number(row, key) for row in found)]
    if not keys:
        return [Statement("Idle connections were not measured.")]
    what = "CPU time" if keys[0] == "cpu_us_per_message" else "time"
    by_range: dict[tuple[int, int], list[Growth]] = {}
    for growth in standings.growths(results, keys[0]):
        by_range.setdefault((growth.start, growth.end), []).append(growth)
    statements = [
        statement
        for (start, end), growths in by_range.items()
        for statement in _growth(start, end, what, growths)
    ]
    left_out = _left_out(found, keys[0])
    rest = [row for row in found if _idle(row) not in left_out]
    stops = (_stop(rest, name, keys[0]) for name in document.model_order(results, rest))
    statements += [Statement(text) for text in stops if text]
    if left_out:
        counts = words.names(f"{count:,}" for count in left_out)
        statements.append(Statement(f"There was no time to measure {counts} idle connections."))
    if not statements:
        text = "Too few numbers of idle connections were measured to compare."
        return [Statement(text)]
    return statements


def triggers(results: dict[str, Any]) -> list[Statement]:
    """How many polls reported the same unread data: counts, which are the same in every round."""
    found = [
        row
        for row in document.rows(results, "triggers")
        if number(row, "told") is not None and number(row, "asks")
    ]
    if not found:
        return [Statement("Level and edge were not measured.")]
    groups: dict[tuple[str, int, int], list[str]] = {}
    for row in found:
        reports, polls = int(number(row, "told") or 0), int(number(row, "asks") or 0)
        groups.setdefault((str(row.get("trigger") or "none"), reports, polls), []).append(
            str(row["model"])
        )
    unread = {number(row, "unread_bytes") for row in found}
    size = unread.pop() if len(unread) == 1 else None
    sentences = [
        f"The same {words.size(size)} stayed unread." if size else "The same data stayed unread."
    ]
    for (trigger, reports, polls), names in groups.items():
        who = {"level": "Level-triggered ", "edge": "Edge-triggered "}.get(trigger, "")
        sentences.append(
            f"{who}{words.names(names)} reported it {words.often(reports)} "
            f"in {words.count(polls, 'poll')}."
        )
    level = [reports / polls for (trigger, reports, polls) in groups if trigger == "level"]
    edge = [reports / polls for (trigger, reports, polls) in groups if trigger == "edge"]
    if level and edge and min(level) > max(edge):
        sentences.append(
            "An edge-triggered model does not report again what the handler left unread."
        )
    return [Statement(text) for text in sentences]


STATEMENTS: dict[str, Callable[[dict[str, Any]], list[Statement]]] = {
    "throughput": throughput,
    "phases": phases,
    "waiting": waiting,
    "idle": idle,
    "triggers": triggers,
}
"""The five figures in their order, each with the function for its statements."""


def _paragraph(figure: str) -> Callable[[dict[str, Any]], str]:
    statements = STATEMENTS[figure]
    return lambda results: " ".join(statement.text for statement in statements(results))


FIGURES: dict[str, Callable[[dict[str, Any]], str]] = {
    figure: _paragraph(figure) for figure in STATEMENTS
}
"""The five figures in their order, each with the function for its paragraph of plain text."""


def noise(results: dict[str, Any]) -> str:
    """How noisy the machine was, without the warning; an empty string if it was not measured."""
    part = document.section(results, "noise")
    parts = []
    factor = number(part, "same_server")
    if factor is not None:
        parts.append(f"the same server measured twice differed by at most {_percent(factor - 1)}")
    for key, text in (
        ("waited_share", "the server waited for its core {} of the time"),
        ("other_share", "other processes used {} of the cores"),
        ("steal_share", "the hypervisor took {} of their time"),
    ):
        value = number(part, key)
        if value is not None:
            parts.append(text.format(_percent(value)))
    return f"Noise of this machine: {', '.join(parts)}." if parts else ""


# -- comparisons -----------------------------------------------------------------------------------


def _ranking(
    found: Standing, *, unit: str, alone: str, best: str, equal: str, behind: str
) -> Statement:
    """State which candidate is the best, or which could not be told apart, and those behind."""
    if not found.spreads:
        return Statement("")
    group = found.group
    if len(found.spreads) == 1:
        value = words.about(found.spreads[group[0]], unit)
        return Statement(alone.format(name=group[0], value=value))
    value = words.about(_together([found.spreads[name] for name in group]), unit)
    if len(group) == 1:
        text = best.format(name=group[0], value=value)
    else:
        text = equal.format(names=words.names(group), value=value)
    if found.ratios:
        text += "; " + words.names(_behind(found, behind))
    return Statement(f"{text}.", found.claims())


def _behind(found: Standing, template: str) -> list[str]:
    """Those that are measurably worse: the first as a clause, the others with their ratio only."""
    first, short = found.group[0], words.share if "{share}" in template else words.times
    as_what = "" if len(found.group) == 1 else f" as {first}"
    return [
        f"{name} {short(ratio)}"
        if i
        else template.format(
            name=name, first=first, as_what=as_what, times=short(ratio), share=short(ratio)
        )
        for i, (name, ratio) in enumerate(found.ratios.items())
    ]


def _together(spreads: list[Spread]) -> Spread:
    """The spread of several candidates that could not be told apart."""
    return Spread(
        median(each.median for each in spreads),
        min(each.lowest for each in spreads),
        max(each.highest for each in spreads),
    )


def _in_microseconds(found: Standing) -> Standing:
    """A standing of nanoseconds with its spreads in microseconds."""
    spreads = {
        name: Spread(each.median / 1000, each.lowest / 1000, each.highest / 1000)
        for name, each in found.spreads.items()
    }
    return Standing(found.figure, found.column, found.at, found.best, spreads, found.ratios)


# -- throughput ------------------------------------------------------------------------------------


def _fastest(results: dict[str, Any], connections: int) -> Statement:
    """The fastest model at one number of connections, and those behind it."""
    where = f"With {words.count(connections, 'connection')} "
    found = standings.throughput(results, "messages_per_second", connections)
    if not found.spreads:
        return Statement("")
    return _ranking(
        found,
        unit="messages per second",
        alone=where + "{name} answers {value}.",
        best=where + "{name} is the fastest and answers {value}",
        equal=where + "no difference could be measured between {names}, which answer {value}",
        behind="{name} answers {share} of what {first} answers",
    )


def _cost(results: dict[str, Any], found: list[Row]) -> list[Statement]:
    """The CPU time and system calls of a message, at the most connections."""
    full = [row for row in found if not document.serves_some(row)]
    if not full:
        return []
    connections = _most_compared(full)
    where = f"With {words.count(connections, 'connection')} "
    return [
        _ranking(
            standings.throughput(results, "cpu_us", connections),
            unit="µs",
            alone=where + "{name} spends {value} of processor time on a message.",
            best=where + "{name} spends the least processor time on a message, {value}",
            equal=where
            + "no difference in the processor time of a message could be measured between "
            "{names}, which spend {value}",
            behind="{name} spends {times} as much{as_what}",
        ),
        _ranking(
            standings.throughput(results, "syscalls_per_message", connections),
            unit="system calls",
            alone=where + "{name} makes {value} per message.",
            best=where + "{name} makes the fewest system calls per message, {value}",
            equal=where
            + "no difference in the number of system calls per message could be measured "
            "between {names}, which make {value}",
            behind="{name} makes {times} as many{as_what}",
        ),
    ]


def _unserved(results: dict[str, Any], found: list[Row]) -> list[Statement]:
    """The models that left clients without an answer."""
    left = {str(row["model"]): row for row in found if document.serves_some(row)}
    statements = []
    for name, row in left.items():
        served, connections = int(number(row, "served") or 0), int(number(row, "connections") or 0)
        if _serves_one(results, name):
            text = f"{name} served {served:,} of {connections:,} connections; the others waited."
        else:
            text = f"{name} answered only {served:,} of {connections:,} connections in time."
        statements.append(Statement(text))
    return statements


def _most_compared(found: list[Row]) -> int:
    """The highest number of connections at which most of the models were measured."""
    tally = dict.fromkeys(document.counts(found, "connections"), 0)
    for row in found:
        tally[int(number(row, "connections") or 0)] += 1
    # A model without rows at the top (blocking serves one client) must not lower this to 1.
    return max(n for n in tally if tally[n] >= 0.75 * max(tally.values()))


# -- waiting and idle ------------------------------------------------------------------------------


def _serves_one(results: dict[str, Any], name: str) -> bool:
    return any(
        model["name"] == name and model.get("limit") == "one" for model in document.models(results)
    )


def _growth(start: int, end: int, what: str, growths: list[Growth]) -> list[Statement]:
    """How the cost of a message differs between `start` and `end` idle connections."""
    beside = f"beside {end:,} idle connections"
    changed = [each for each in growths if each.change is not None]
    same = words.names(each.model for each in growths if each.change is None)
    base = f"the {what} it takes beside {f'{start:,}' if start else 'none'}"
    if not changed:
        return [
            Statement(
                f"No difference between the {what} of a message {beside} and {base} could be "
                f"measured on {same}."
            )
        ]
    parts = [
        f"{words.times(each.ratio)} {base} on {each.model}"
        if i == 0
        else f"{words.times(each.ratio)} on {each.model}"
        for i, each in enumerate(changed)
        if each.ratio is not None
    ]
    text = f"{beside.capitalize()} a message takes {words.names(parts)}"
    if same:
        text += f"; no difference could be measured on {same}"
    return [Statement(f"{text}.", [claim for each in changed for claim in each.claims()])]


def _left_out(found: list[Row], key: str) -> list[int]:
    """The numbers of idle connections that no model was measured with: there was no time."""
    measured = {_idle(row) for row in found if number(row, key) is not None}
    return [count for count in document.counts(found, "idle") if count not in measured]


def _stop(found: list[Row], name: str, key: str) -> str:
    """Where a curve ends early, and the reason in the document."""
    mine = [row for row in found if row["model"] == name]
    measured = [_idle(row) for row in mine if number(row, key) is not None]
    after = max(measured, default=-1)
    ended = [row for row in mine if number(row, key) is None and _idle(row) > after]
    if not ended:
        return ""
    first = min(ended, key=_idle)
    note = str(first.get("note") or "").strip().rstrip(".")
    reason = f" ({note})." if note else "."
    if not measured:
        return f"{name} was not measured{reason}"
    if len(measured) == 1:
        return f"{name} was measured only with {after:,} idle connections{reason}"
    missing = f"was not measured at {_idle(first):,}"
    return f"{name} ends at {after:,} idle connections and {missing}{reason}"


def _idle(row: Row) -> int:
    return int(number(row, "idle") or 0)


# -- small things ----------------------------------------------------------------------------------


def _synchronous(results: dict[str, Any], row: Row) -> bool | None:
    for model in document.models(results):
        if model["name"] == row["model"]:
            value = model.get("synchronous")
            return value if isinstance(value, bool) else None
    return None


def _ends(values: list[int]) -> list[int]:
    return values if len(values) < 2 else [values[0], values[-1]]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share < 0.1 else f"{100 * share:.0f}%"
