"""A loop that one handler blocked, and tasks that never yield."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field

from noria.sight.findings import places
from noria.sight.findings.finding import ERROR, WARNING, Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural, share
from noria.sight.observation import Block, LoopFigures, Place

# The share of the longest block from which on one handler is its cause.
_ONE_HANDLER = 0.7
# Several handlers in one turn are a cause together if each took this share of the limit.
_LONG_HANDLER = 0.1
# A thread that ran for this share of a block computed; below the other share it waited.
_COMPUTED, _WAITED = 0.6, 0.2
_COLLECTED = _IMPORTED = 0.5
# A loop in the code is seen at several lines: in so many samples, and at most this share at one.
_LEAST_SAMPLES, _ONE_LINE = 5, 0.95
# Blocks without a stack must be this many times longer than the limit.
_UNSEEN, _UNSEEN_AT_START = 2, 4
# A sleeping thread leaves the GIL to the watchdog, whose samples are _SAMPLE_STEP longer apart each
# time. With less than this share of them, the watchdog waited, too: for the GIL or for a CPU.
_SAMPLE_STEP, _SAMPLED = 1.05, 0.2
_GIL_TAKEN = 0.3
_SEVERE_NS = 1_000_000_000
_SEVERE_SHARE = 0.1

_YIELD = (
    "Move the work to a thread (await asyncio.to_thread(...)) or, as pure Python code holds the "
    "GIL, to a process (loop.run_in_executor with a ProcessPoolExecutor); or do it in pieces of a "
    "few ms with `await asyncio.sleep(0)` between them."
)
_GIL = (
    "The call holds the GIL, so a thread does not help: run it in a process "
    "(loop.run_in_executor with a ProcessPoolExecutor), or split its input."
)
# What the line calls, and what to do instead.
_ADVICE = (
    (
        r"\b(AsyncClient|create_default_context|SSLContext)\s*\(",
        "Create it once and share it: each new one reads the certificates of all authorities.",
    ),
    (r"\btime\.sleep\s*\(|\bsleep\s*\(", "Use `await asyncio.sleep(...)`."),
    (
        r"\.acquire\s*\(|\bwith\s+[\w.]*(lock|mutex|condition)\b",
        "Use asyncio.Lock between tasks; for a lock shared with threads, take it in a thread: "
        "`await asyncio.to_thread(lock.acquire)`, and hold it only briefly.",
    ),
    (
        r"\bjson\.|\bpickle\.|\borjson\.",
        "Parse large documents in a process (loop.run_in_executor with a ProcessPoolExecutor; "
        "the parser holds the GIL, so a thread does not help), limit their size, or use a format "
        "that is read in pieces (JSON lines, ijson).",
    ),
    (
        r"\bre\.|\.(match|fullmatch|search|sub|findall|finditer)\s*\(",
        "The expression backtracks, and holds the GIL: rewrite it without nested repetition "
        "(possessive quantifiers and atomic groups since Python 3.11), limit the input's length, "
        "or match in a process.",
    ),
    (r"\bsubprocess\.|\bos\.system", "Use asyncio.create_subprocess_exec."),
    (
        r"\brequests\.|\burlopen\s*\(|\bhttplib\b|\.recv\s*\(|\.sendall\s*\(|\.connect\s*\(",
        "Use an asynchronous client (asyncio streams, aiohttp, httpx), or "
        "`await asyncio.to_thread(...)`.",
    ),
    (
        r"\bgetaddrinfo\s*\(|\bgethostby",
        "Use `await loop.getaddrinfo(...)`.",
    ),
    (
        r"\bopen\s*\(|\.(read|write)(_text|_bytes)?\s*\(|\bos\.(stat|listdir|scandir|fsync)",
        "Use noria.open or noria.aiofiles, or `await asyncio.to_thread(...)`.",
    ),
    (r"\.(result|join|get|wait)\s*\(", "Await it, or wait in a thread: asyncio.to_thread."),
)


@dataclass
class _Group:
    """Blocks in one function."""

    blocks: list[Block] = field(default_factory=list)
    lines: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    known: dict[tuple[str, str, int], Place] = field(default_factory=dict)

    def add(self, block: Block, place: Place) -> None:
        self.blocks.append(block)
        seen = [
            (sample, count)
            for sample, count in block.samples
            if places.function(sample) == places.function(place) and not block.gil_held
        ]
        # Without samples the place may be the function's first line. Samples of C code that held
        # the GIL are of the time after it; the stack is of the moment when it released the GIL.
        for sample, count in seen or [(place, 1)]:
            self.see(sample, count)

    def see(self, place: Place, count: int) -> None:
        key = places.key(place)
        self.lines[key] += count
        if not self.known.setdefault(key, place).source:
            self.known[key] = place

    def spread(self) -> bool:
        """Whether it was seen at several lines, none of which takes nearly all the time."""
        total = sum(self.lines.values())
        return total >= _LEAST_SAMPLES and max(self.lines.values()) <= total * _ONE_LINE

    def place(self) -> Place:
        return self.known[self.lines.most_common(1)[0][0]]


def find(loop: LoopFigures, thresholds: Thresholds, limit: int) -> list[Finding]:
    """Return the findings of handlers that ran longer than `limit` ns."""
    if not loop.blocks:
        return _without_stacks(loop, limit)
    groups: dict[tuple[str, str], _Group] = {}
    for block in _faults(loop, thresholds, limit):
        place = places.innermost(block.stack) or Place()
        groups.setdefault(places.function(place), _Group()).add(block, place)
    ordered = sorted(groups.values(), key=lambda group: -total_of(group.blocks))
    return [_finding(loop, group, thresholds) for group in ordered]


def longest(loop: LoopFigures, after: int) -> int:
    """Return the duration of the longest block, in ns: for this long nothing else could run.

    Only blocks that lasted at the time `after` or began later.
    """
    calls = loop.blocks or loop.slow
    return max((call.duration for call in calls if call.started + call.duration > after), default=0)


def _faults(loop: LoopFigures, thresholds: Thresholds, limit: int) -> list[Block]:
    """The blocks whose cause is one handler, or a few."""
    return [
        block
        for block in of_the_program(loop, thresholds, limit)
        if not block.ended or few_handlers(loop, block, limit)
    ]


def few_handlers(loop: LoopFigures, block: Block, limit: int) -> bool:
    """Whether one handler, or several that are not short, took most of a block that has ended."""
    return _one_handler(loop, block, limit) or _long_handlers(loop, block, limit)


def of_the_program(loop: LoopFigures, thresholds: Thresholds, limit: int) -> list[Block]:
    """Return the blocks whose cause is not the machine, imports or garbage collections."""
    found = []
    for block in loop.blocks:
        own = block.duration - block.runqueue
        if own < limit:
            continue
        begun = block.started - loop.begin
        if begun < thresholds.startup * 1e9 and _importing(block):
            continue
        # It waits until the new thread runs: for a CPU, or for the GIL.
        if places.is_thread_start(block.stack):
            continue
        if _collecting(loop, block) > block.duration * _COLLECTED:
            continue
        if _kept_from_running(block, own, limit):
            continue
        if not (block.samples or block.cpu or block.runqueue):
            # The watchdog has not seen it: whether the thread ran is unknown.
            early = begun < thresholds.startup * 1e9
            ran = own * (1 - loop.cpu_wait)
            if ran < limit * (_UNSEEN_AT_START if early else _UNSEEN):
                continue
        found.append(block)
    return found


def _kept_from_running(block: Block, own: int, limit: int) -> bool:
    """Whether the thread neither ran nor called what waits: another thread had the GIL."""
    if block.gil_held or not block.ended or not block.cpu or block.cpu > own * _WAITED:
        return False
    if block.gil_wait > own * _GIL_TAKEN:
        return True
    expected = math.log(max(own / limit, 1.0)) / math.log(_SAMPLE_STEP)
    return sum(count for _, count in block.samples) < expected * _SAMPLED


def _importing(block: Block) -> bool:
    """Whether most of a block was imports."""
    if not block.samples:
        return places.is_import(block.stack)
    return block.importing >= sum(count for _, count in block.samples) * _IMPORTED


def _collecting(loop: LoopFigures, block: Block) -> int:
    """The ns of a block in which garbage was collected."""
    end = block.started + block.duration
    return sum(
        max(min(end, pause.started + pause.duration) - max(block.started, pause.started), 0)
        for pause in loop.gc.slow
    )


def _one_handler(loop: LoopFigures, block: Block, limit: int) -> bool:
    """Whether one handler took most of the block, and not many short ones."""
    if not loop.slow:
        return True
    end = block.started + block.duration
    # On a busy machine a short handler is long while its thread waits for a CPU. How long each one
    # waited is unknown: it is taken to be spread evenly over the block.
    own = block.duration - block.runqueue
    running = own / max(block.duration, 1)
    for call in loop.slow:
        common = min(end, call.started + call.duration) - max(block.started, call.started)
        if common * running >= min(own * _ONE_HANDLER, limit):
            return True
    # The list has the longest calls only: this block's may have been dropped from it.
    return min(call.duration for call in loop.slow) > block.duration


def _long_handlers(loop: LoopFigures, block: Block, limit: int) -> bool:
    """Whether several handlers of the turn, none of them short, computed for most of the block."""
    if block.cpu < block.duration * _COMPUTED:
        return False
    end = block.started + block.duration
    total = sum(
        min(end, call.started + call.duration) - call.started
        for call in loop.slow
        if call.duration >= limit * _LONG_HANDLER and block.started <= call.started < end
    )
    return total >= max(limit, block.duration * _ONE_HANDLER)


def _finding(loop: LoopFigures, group: _Group, thresholds: Thresholds) -> Finding:
    blocks, place = group.blocks, group.place()
    worst = max(blocks, key=lambda block: block.duration)
    total, observed = total_of(blocks), max(loop.end - loop.begin, 1)
    ran_for = worst.duration - worst.runqueue
    never_yields = bool(worst.task) and ran_for >= thresholds.never_yields * 1e9 and group.spread()
    evidence = [how_long(blocks, worst, total, observed)]
    if worst.task and all(block.task == worst.task for block in blocks):
        evidence[0] += f" in task {worst.task}"
    waiting = max(block.events_waiting for block in blocks)
    if waiting:
        evidence.append(f"up to {plural(waiting, 'event')} waited in the queue meanwhile")
    delay = sum(block.delay_share for block in blocks)
    if delay >= 0.01:
        evidence.append(f"{share(min(delay, 1.0))} of all queue delay is from it")
    ran = sum(block.cpu for block in blocks) / max(total - _waited_for_cpu(blocks), 1)
    gil = any(block.gil_held for block in blocks)
    if gil:
        evidence.append("C code held the GIL meanwhile: no other thread ran Python code")
    elif ran >= _COMPUTED:
        evidence.append("the thread computed meanwhile: it was on a CPU, or ready for one")
    elif ran <= _WAITED and any(block.cpu for block in blocks):
        evidence.append("the thread did not compute: it waited in a system call or for a lock")
    inner = worst.stack[-1] if worst.stack else None
    if inner is not None and places.key(inner) != places.key(place):
        evidence.append(f"inside it: {inner}")
    if never_yields:
        title = f"task {worst.task} ran for {duration(ran_for)} without yielding"
        lines = ", ".join(str(line) for line in sorted({key[2] for key in group.lines}))
        evidence.append(
            f"it was seen at lines {lines}: a loop whose awaits, if any, return at once"
        )
    else:
        title = f"{place.function or 'a handler'} blocks the loop for {duration(worst.duration)}"
    return Finding(
        kind="task-never-yields" if never_yields else "loop-blocked",
        title=title,
        evidence=evidence,
        place=place,
        advice=_advice(place, gil, ran, any(block.cpu for block in blocks)),
        severity=severity(worst, total, observed),
        loop=loop.id,
        data={
            "blocks": len(blocks),
            "longest": worst.duration,
            "total": total,
            "events_waiting": waiting,
            "delay_share": min(delay, 1.0),
            "cpu_share": min(ran, 1.0),
            "gil_held": gil,
            "task": worst.task,
        },
    )


def severity(worst: Block, total: int, observed: int) -> str:
    """Return how severe blocks are, by the longest one and the ns of all together."""
    severe = worst.duration >= _SEVERE_NS or total >= observed * _SEVERE_SHARE
    return ERROR if severe else WARNING


def how_long(blocks: list[Block], worst: Block, total: int, observed: int) -> str:
    """Return the sentence that says how often and how long the loop was blocked."""
    if len(blocks) == 1:
        state = "" if worst.ended else " so far"
        return f"the loop was blocked once, for {duration(worst.duration)}{state}"
    return (
        f"the loop was blocked {len(blocks):,} times, at most {duration(worst.duration)}, "
        f"in all {duration(total)} ({share(total / observed)} of the time)"
    )


def _advice(place: Place, gil: bool, ran: float, known: bool = True) -> str:
    """What to do. `ran`: the share of time on a CPU, if that is `known`."""
    for pattern, text in _ADVICE:
        if re.search(pattern, place.source):
            return text
    if gil:
        return _GIL
    if ran > _WAITED or not known:
        return _YIELD
    return (
        "Wait without blocking: await the asynchronous form of this call, or call it in a thread "
        "with `await asyncio.to_thread(...)`."
    )


def _without_stacks(loop: LoopFigures, limit: int) -> list[Finding]:
    """Findings from the longest handlers alone, where no watchdog took stacks."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    known: dict[tuple[str, str, int], Place] = {}
    for call in loop.slow:
        # Twice: whether the thread ran is unknown here.
        if call.duration >= 2 * limit:
            key = places.key(call.place)
            known[key] = call.place
            groups.setdefault(key, []).append(call.duration)
    return [
        Finding(
            kind="loop-blocked",
            title=f"{known[key].function or 'a handler'} blocks the loop for "
            f"{duration(max(durations))}",
            evidence=[
                f"{plural(len(durations), 'call')} took at least {duration(2 * limit)}, the "
                f"longest {duration(max(durations))}"
            ],
            place=known[key],
            advice=_advice(known[key], False, 1.0),
            severity=ERROR if max(durations) >= _SEVERE_NS else WARNING,
            loop=loop.id,
            data={"blocks": len(durations), "longest": max(durations), "total": sum(durations)},
        )
        for key, durations in groups.items()
    ]


def _waited_for_cpu(blocks: list[Block]) -> int:
    return sum(block.runqueue for block in blocks)


def total_of(blocks: list[Block]) -> int:
    """Return the ns of all blocks together."""
    return sum(block.duration for block in blocks)
