"""Turns in which many short handlers together blocked the loop."""

from __future__ import annotations

from collections import Counter

from noria.sight.findings import blocked, places
from noria.sight.findings.finding import Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural, share
from noria.sight.observation import Block, LoopFigures, Place

# Many events may be ready at once in a healthy program: the thread must have computed this many
# times longer than one handler may.
_TIMES_LONGER = 2


def find(loop: LoopFigures, thresholds: Thresholds, limit: int) -> list[Finding]:
    """Return a finding if turns of many handlers that are no block alone blocked the loop."""
    blocks = [
        block
        for block in blocked.of_the_program(loop, thresholds, limit)
        if block.ended
        and block.handlers > 1
        and block.samples
        and block.cpu >= _TIMES_LONGER * limit
        and not blocked.few_handlers(loop, block, limit)
    ]
    if not blocks:
        return []
    worst = max(blocks, key=lambda block: block.duration)
    total, observed = blocked.total_of(blocks), max(loop.end - loop.begin, 1)
    place, part = _largest_part(blocks)
    waiting = max(block.events_waiting for block in blocks)
    evidence = [
        blocked.how_long(blocks, worst, total, observed),
        f"{plural(worst.handlers, 'handler')} ran in the longest turn, "
        f"{duration(worst.duration / worst.handlers)} each",
        f"{place.function} had the largest share: {share(part)} of the samples",
    ]
    if waiting:
        evidence.append(f"up to {plural(waiting, 'event')} waited in the queue meanwhile")
    return [
        Finding(
            kind="loop-blocked",
            title=f"{plural(worst.handlers, 'handler')} in one turn block the loop for "
            f"{duration(worst.duration)}",
            evidence=evidence,
            place=place,
            advice="No handler is long, but the loop runs all that are ready before it looks for "
            "new events: make fewer ready at once (asyncio.Semaphore, a bounded asyncio.Queue, "
            "`await asyncio.sleep(0)` between batches), or do less in each.",
            severity=blocked.severity(worst, total, observed),
            loop=loop.id,
            data={
                "blocks": len(blocks),
                "longest": worst.duration,
                "total": total,
                "events_waiting": waiting,
                "handlers": worst.handlers,
                "share": part,
            },
        )
    ]


def _largest_part(blocks: list[Block]) -> tuple[Place, float]:
    """Return the most frequent line of the function that was seen most, and its share."""
    functions: Counter[tuple[str, str]] = Counter()
    lines: Counter[tuple[str, str, int]] = Counter()
    known: dict[tuple[str, str, int], Place] = {}
    for block in blocks:
        for place, count in block.samples:
            functions[places.function(place)] += count
            lines[places.key(place)] += count
            known.setdefault(places.key(place), place)
    ((function, count),) = functions.most_common(1)
    line = max(
        (each for each in known if places.function(known[each]) == function), key=lines.__getitem__
    )
    return known[line], count / functions.total()
