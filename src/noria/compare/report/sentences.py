"""Describes each figure in sentences computed from the numbers.

One function per figure takes the whole document and returns one paragraph of plain text. A sentence
is omitted if its numbers are missing; without any, the paragraph says that nothing was measured.
"""

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from noria.compare.report import document
from noria.compare.report.document import Row, number

EQUAL_RATIO = 1.05
"""Values within this ratio are called equal: one run on one machine is not more exact."""

APART_RATIO = 1.5
"""From this ratio on, two lines count as apart."""


def throughput(results: dict[str, Any]) -> str:
    """The fastest models, where others fall behind, and the cost of a message."""
    found = [
        row
        for row in document.rows(results, "throughput")
        if number(row, "connections") is not None and number(row, "messages_per_second")
    ]
    if not found:
        return "Throughput was not measured."
    sentences = []
    for connections in _ends(document.counts(found, "connections")):
        rates = _by_model(found, "connections", connections, "messages_per_second")
        sentences.append(_fastest(connections, rates))
    sentences.append(_falling_behind(found))
    sentences.append(_cost(found))
    sentences.append(_one_at_a_time(found))
    return " ".join(filter(None, sentences))


def phases(results: dict[str, Any]) -> str:
    """The time from send to handler, who copied, and the empty polls."""
    samples = document.phase_samples(results)
    if not samples:
        return "The two phases were not measured."
    taken = {str(row["model"]): float(row["handler"]) for row in samples}
    quick, slow = min(taken, key=taken.__getitem__), max(taken, key=taken.__getitem__)
    sentences = []
    if len(taken) == 1:
        sentences.append(f"On {quick} the handler ran {_ns(taken[quick])} after the send.")
    else:
        sentences.append(
            f"From send to handler {quick} took {_ns(taken[quick])}, the shortest of the "
            f"{_count(len(taken), 'model')}, and {slow} {_ns(taken[slow])}, the longest."
        )
    copied = {
        str(row["model"]): row["copy_end"] - row["copy_begin"]
        for row in samples
        if row.get("copy_begin") is not None and row.get("copy_end") is not None
    }
    size = number(document.section(results, "phases"), "size")
    if copied:
        what = f"The copy of {_bytes(size)}" if size else "The copy"
        least, most = min(copied.values()), max(copied.values())
        between = _ns(least) if _ns(least) == _ns(most) else f"{_ns(least)} to {_ns(most)}"
        sentences.append(f"{what} by the process took {between} on {_names(copied)}.")
    delays = [
        row["ready"] - row["arrived"]
        for row in samples
        if row.get("ready") is not None and row.get("arrived") is not None
    ]
    if delays and median(delays) >= 0:
        sentences.append(
            f"Where the kernel reports readiness, the process knew of the data "
            f"{_ns(median(delays))} after its arrival (median of the models)."
        )
    for row in samples:
        asks = number(row, "asks")
        if asks:
            sentences.append(
                f"{_count(int(asks), 'poll')} of {row['model']} found no data before this message."
            )
    free = [name for name in taken if _synchronous(results, name) is False]
    if free:
        sentences.append(
            f"On {_names(free)} the process was free in both phases: the kernel waited and copied "
            f"before the handler ran."
        )
    elif any(_synchronous(results, name) for name in taken):
        sentences.append(
            "On every model measured here the process is blocked in at least one phase."
        )
    return " ".join(sentences)


def waiting(results: dict[str, Any]) -> str:
    """The models that served one client after the other, and how soon the others answered all."""
    answers = {name: times for name, times in document.first_answers(results).items() if times}
    if not answers:
        return "Waiting clients were not measured."
    part = document.section(results, "waiting")
    hold = number(part, "hold_ms")
    clients = int(number(part, "clients") or max(map(len, answers.values())))
    sentences = []
    queued = [name for name, times in answers.items() if _queues(times, hold)]
    for name in queued:
        times = answers[name]
        cause = f", because each client stays connected for {hold:g} ms" if hold else ""
        last = f", the last {_ms(times[-1])}" if len(times) > 2 else ""
        sentences.append(f"On {name} the second client waited {_ms(times[1])}{last}{cause}.")
    together = {name: times[-1] for name, times in answers.items() if name not in queued}
    if together:
        slow = max(together, key=together.__getitem__)
        quick = min(together, key=together.__getitem__)
        if len(together) == 1:
            sentences.append(f"{slow} answered all its clients within {_ms(together[slow])}.")
        else:
            who = "The other" if queued else "All"
            sentences.append(
                f"{who} {_count(len(together), 'model')} had answered every client within "
                f"{_ms(together[slow])}: {quick} first, after {_ms(together[quick])}, "
                f"{slow} last."
            )
    for name, times in answers.items():
        if len(times) < clients:
            sentences.append(
                f"On {name} only {len(times)} of {clients} clients received an answer."
            )
    return " ".join(sentences)


def idle(results: dict[str, Any]) -> str:
    """What idle connections add to the cost of a message, and where a curve ends."""
    found = [row for row in document.rows(results, "idle") if number(row, "idle") is not None]
    key = next((k for k in ("cpu_us_per_message", "us_per_message") if _any(found, k)), None)
    if key is None:
        return "Idle connections were not measured."
    what = "CPU time" if key == "cpu_us_per_message" else "time"
    sentences = []
    grown: dict[str, tuple[float, int, int]] = {}
    for name in document.model_order(results, found):
        curve = _curve(found, name, key)
        if len(curve) > 1 and curve[0][1] > 0:
            grown[name] = (curve[-1][1] / curve[0][1], curve[0][0], curve[-1][0])
    if grown:
        most = max(grown, key=lambda name: grown[name][0])
        ratio, start, end = grown[most]
        if ratio >= EQUAL_RATIO:
            first, last = (_curve(found, most, key)[i][1] for i in (0, -1))
            sentences.append(
                f"From {start:,} to {end:,} idle connections, the {what} per message on {most} "
                f"grew from {_us(first)} to {_us(last)}, {_times(ratio)} as much."
            )
        flat = [name for name, (r, _, e) in grown.items() if r < 1.25 and e == end]
        if flat:
            worst = max(grown[name][0] for name in flat)
            change = f"by at most {100 * (worst - 1):.0f}%" if worst >= 1.005 else "not measurably"
            sentences.append(f"On {_names(flat)} it grew {change}.")
    sentences.append(_growing(found, key))
    sentences += [_stop(found, name, key) for name in document.model_order(results, found)]
    text = " ".join(filter(None, sentences))
    return text or "Too few numbers of idle connections were measured to compare."


def triggers(results: dict[str, Any]) -> str:
    """How many polls reported the same unread data."""
    found = [
        row
        for row in document.rows(results, "triggers")
        if number(row, "told") is not None and number(row, "asks")
    ]
    if not found:
        return "Level and edge were not measured."
    groups: dict[tuple[str, int, int], list[str]] = {}
    for row in found:
        reports, polls = int(number(row, "told") or 0), int(number(row, "asks") or 0)
        groups.setdefault((str(row.get("trigger") or "none"), reports, polls), []).append(
            str(row["model"])
        )
    unread = {number(row, "unread_bytes") for row in found}
    size = unread.pop() if len(unread) == 1 else None
    sentences = [
        f"The same {_bytes(size)} stayed unread." if size else "The same data stayed unread."
    ]
    for (trigger, reports, polls), names in groups.items():
        who = {"level": "Level-triggered ", "edge": "Edge-triggered "}.get(trigger, "")
        sentences.append(
            f"{who}{_names(names)} reported it {_often(reports)} in {_count(polls, 'poll')}."
        )
    level = [reports / polls for (trigger, reports, polls) in groups if trigger == "level"]
    edge = [reports / polls for (trigger, reports, polls) in groups if trigger == "edge"]
    if level and edge and min(level) > max(edge):
        sentences.append(
            "An edge-triggered model does not report again what the handler left unread."
        )
    return " ".join(sentences)


FIGURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "throughput": throughput,
    "phases": phases,
    "waiting": waiting,
    "idle": idle,
    "triggers": triggers,
}
"""The five figures in their order, each with the function for its sentences."""


# -- throughput ------------------------------------------------------------------------------------


def _fastest(connections: int, rates: dict[str, float]) -> str:
    """The fastest model at one number of connections, and the next."""
    ranked = sorted(rates, key=rates.__getitem__, reverse=True)
    where = f"With {_count(connections, 'connection')}"
    first = ranked[0]
    best = f"{rates[first]:,.0f} messages per second"
    if len(ranked) == 1:
        return f"{where} {first} answers {best}."
    second = ranked[1]
    ratio = rates[first] / rates[second]
    if ratio < EQUAL_RATIO:
        near = [name for name in ranked[1:] if rates[first] / rates[name] < EQUAL_RATIO]
        return f"{where} {first} answers {best}; {_names(near)} {_be(near)} equally fast."
    return f"{where} {first} is the fastest with {best}, {_times(ratio)} as many as {second}."


def _falling_behind(found: list[Row]) -> str:
    """Where each model that serves all clients first falls behind the fastest by APART_RATIO."""
    serving_all = [row for row in found if not serves_some(row)]
    if len({row["model"] for row in serving_all}) < 2:
        return ""
    fell: dict[str, tuple[int, float]] = {}
    for connections in document.counts(serving_all, "connections"):
        rates = _by_model(serving_all, "connections", connections, "messages_per_second")
        best = max(rates.values())
        for name, rate in rates.items():
            if best / rate >= APART_RATIO:
                fell.setdefault(name, (connections, best / rate))
    if not fell:
        behind = _times(APART_RATIO)
        return f"No model that serves every client is slower than the fastest by {behind}."
    parts = [
        f"{_names(names)} at {_count(connections, 'connection')} ({_share(ratios)} of its messages)"
        for connections, names, ratios in _grouped(fell)
    ]
    return f"Models fall behind the fastest: {_names(parts)}."


def _cost(found: list[Row]) -> str:
    """The lowest and highest CPU time and system calls, at the most connections."""
    full = [row for row in found if number(row, "user_us") is not None]
    full = [row for row in full if number(row, "kernel_us") is not None and not serves_some(row)]
    if not full:
        return ""
    connections = _most_compared(full)
    here = [row for row in full if number(row, "connections") == connections]
    cheap = min(here, key=_cpu)
    text = (
        f"At {_count(connections, 'connection')} {cheap['model']} spends the least processor time "
        f"on a message, {_us(_cpu(cheap))} ({_us(number(cheap, 'user_us') or 0)} user, "
        f"{_us(number(cheap, 'kernel_us') or 0)} kernel)"
    )
    if len(here) > 1:
        costly = max(here, key=_cpu)
        text += f"; {costly['model']} the most, {_us(_cpu(costly))}"
    calls = _by_model(here, "connections", connections, "syscalls_per_message")
    if len(calls) > 1:
        few, many = min(calls, key=calls.__getitem__), max(calls, key=calls.__getitem__)
        text += f". System calls per message: from {calls[few]:.2f} ({few}) "
        text += f"to {calls[many]:.2f} ({many})"
    return text + "."


def _one_at_a_time(found: list[Row]) -> str:
    """The models that left clients unserved."""
    left: dict[str, Row] = {}
    for row in found:
        if serves_some(row):
            left[str(row["model"])] = row
    return " ".join(
        f"{name} served {int(number(row, 'served') or 0):,} of "
        f"{int(number(row, 'connections') or 0):,} connections; the others waited."
        for name, row in left.items()
    )


def serves_some(row: Row) -> bool:
    """Whether a row of throughput has unserved connections."""
    served, connections = number(row, "served"), number(row, "connections")
    return served is not None and connections is not None and served < connections


def _cpu(row: Row) -> float:
    return (number(row, "user_us") or 0.0) + (number(row, "kernel_us") or 0.0)


def _most_compared(found: list[Row]) -> int:
    """The highest number of connections at which most of the models were measured."""
    tally = dict.fromkeys(document.counts(found, "connections"), 0)
    for row in found:
        tally[int(number(row, "connections") or 0)] += 1
    # A model without rows at the top (blocking serves one client) must not lower this to 1.
    return max(n for n in tally if tally[n] >= 0.75 * max(tally.values()))


# -- waiting and idle ------------------------------------------------------------------------------


def _queues(times: list[float], hold: float | None) -> bool:
    """Whether clients were answered one after the other, at least 80% of `hold` ms apart."""
    return hold is not None and hold > 0 and len(times) > 1 and times[1] - times[0] >= 0.8 * hold


def _curve(found: list[Row], name: str, key: str) -> list[tuple[int, float]]:
    points = [
        (int(number(row, "idle") or 0), value)
        for row in found
        if row["model"] == name and (value := number(row, key)) is not None
    ]
    return sorted(points)


def _growing(found: list[Row], key: str) -> str:
    """The number of idle connections at which each curve first is APART_RATIO times its start."""
    counts = document.counts(found, "idle")
    base = _by_model(found, "idle", counts[0], key)
    fell: dict[str, tuple[int, float]] = {}
    for n in counts[1:]:
        for name, value in _by_model(found, "idle", n, key).items():
            if base.get(name) and value / base[name] >= APART_RATIO:
                fell.setdefault(name, (n, value / base[name]))
    if not fell:
        return ""
    parts = [
        f"{_names(names)} at {n:,} ({_span(ratios)} the cost beside {counts[0]:,})"
        for n, names, ratios in _grouped(fell)
    ]
    return f"The cost grows on {_names(parts)}."


def _stop(found: list[Row], name: str, key: str) -> str:
    """Where a curve ends early, and the reason in the document."""
    curve = _curve(found, name, key)
    after = curve[-1][0] if curve else -1
    ended = [
        row
        for row in found
        if row["model"] == name and number(row, key) is None and (number(row, "idle") or 0) > after
    ]
    if not ended:
        return ""
    first = min(ended, key=_idle)
    note = str(first.get("note") or "").strip().rstrip(".")
    reason = f" ({note})." if note else "."
    if not curve:
        return f"{name} was not measured{reason}"
    if len(curve) == 1:
        return f"{name} was measured only with {after:,} idle connections{reason}"
    missing = f"was not measured at {_idle(first):,}"
    return f"{name} ends at {after:,} idle connections and {missing}{reason}"


def _idle(row: Row) -> int:
    return int(number(row, "idle") or 0)


# -- words -----------------------------------------------------------------------------------------


def _grouped(fell: dict[str, tuple[int, float]]) -> list[tuple[int, list[str], list[float]]]:
    """Models by the count at which they fell behind, each group with its ratios."""
    return [
        (at, [n for n, (a, _) in fell.items() if a == at], [r for a, r in fell.values() if a == at])
        for at in sorted({at for at, _ in fell.values()})
    ]


def _share(ratios: list[float]) -> str:
    low, high = f"{100 / max(ratios):.0f}%", f"{100 / min(ratios):.0f}%"
    return low if low == high else f"{low} to {high}"


def _span(ratios: list[float]) -> str:
    return _times(ratios[0]) if len(ratios) == 1 else f"up to {_times(max(ratios))}"


def _by_model(found: Iterable[Row], axis: str, at: float, key: str) -> dict[str, float]:
    return {
        str(row["model"]): value
        for row in found
        if number(row, axis) == at and (value := number(row, key)) is not None
    }


def _any(found: Iterable[Row], key: str) -> bool:
    return any(number(row, key) is not None for row in found)


def _synchronous(results: dict[str, Any], name: str) -> bool | None:
    for model in document.models(results):
        if model["name"] == name:
            value = model.get("synchronous")
            return value if isinstance(value, bool) else None
    return None


def _ends(values: list[int]) -> list[int]:
    return values if len(values) < 2 else [values[0], values[-1]]


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def _verb(names: list[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _be(names: list[str]) -> str:
    return _verb(names, "is", "are")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _often(n: int) -> str:
    return {0: "not once", 1: "once", 2: "twice"}.get(n, f"{n:,} times")


def _times(ratio: float) -> str:
    return f"{ratio:,.2f} times" if ratio < 10 else f"{ratio:,.0f} times"


def _us(microseconds: float) -> str:
    if microseconds >= 10_000:
        return f"{microseconds / 1000:,.1f} ms"
    return f"{microseconds:,.1f} µs" if microseconds < 100 else f"{microseconds:,.0f} µs"


def _ns(nanoseconds: float) -> str:
    return _us(nanoseconds / 1000)


def _ms(milliseconds: float) -> str:
    if milliseconds < 1:
        return f"{milliseconds:.2f} ms"
    return f"{milliseconds:.1f} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


def _bytes(size: float | None) -> str:
    if size is None:
        return "the message"
    if size >= 1024 and size % 1024 == 0:
        return f"{size / 1024:,.0f} KiB"
    return _count(int(size), "byte")
