"""Garbage collections that stop the loop."""

from __future__ import annotations

from noria.sight.findings.finding import Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural, share
from noria.sight.observation import LoopFigures

# Shorter collections, and loops that lived shorter, such as those of tests, give no share.
_LEAST_NS = 100_000_000
_LEAST_OBSERVED_NS = 1_000_000_000


def find(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    """Return a finding if collections take a large share of the loop's time, or very long."""
    pauses = loop.gc.pauses
    # Collections in other threads stop the loop too, even while it has nothing to do: they may take
    # longer than the loop was busy.
    whole = loop.busy if pauses.total <= loop.busy else loop.end - loop.begin
    part = pauses.total / whole if whole else 0.0
    # A busy machine prolongs everything, by chance also a short collection: what counts is how long
    # the collections themselves ran.
    ran = loop.gc.run or pauses.total
    enough = ran >= _LEAST_NS and loop.end - loop.begin >= _LEAST_OBSERVED_NS
    often = enough and part >= thresholds.gc_share
    if not often and (loop.gc.longest_run or pauses.longest) < thresholds.gc_pause * 1e9:
        return []
    codes = sorted(loop.gc.by_code, key=lambda code: -code.busy)
    place = codes[0].place if codes else None
    full = loop.gc.collections[2]
    time = "the loop's busy time" if whole == loop.busy else "all time, also in other threads"
    evidence = [
        f"{plural(pauses.count, 'collection')} ({full:,} full) took {duration(pauses.total)}, "
        f"{share(part)} of {time}; the longest {duration(pauses.longest)}",
        f"{plural(loop.gc.collected, 'object')} were freed by them",
    ]
    if codes:
        evidence.append(f"{duration(codes[0].busy)} of it began at the line above")
    explicit = place is not None and "gc.collect" in place.source
    if explicit:
        advice = "Call gc.collect() rarely, and while nothing waits for the loop."
    elif loop.gc.collected < pauses.count:
        advice = (
            "Nothing is freed: after start-up, call gc.freeze() so that long-lived objects are "
            "not examined, and raise gc.set_threshold()."
        )
    else:
        advice = (
            "Make fewer objects that refer to each other in cycles (break them, use weakref), "
            "raise gc.set_threshold(), and call gc.freeze() after start-up."
        )
    return [
        Finding(
            kind="gc-pauses",
            title=f"garbage collections take {share(part)} of {time}, at most "
            f"{duration(pauses.longest)} at once",
            evidence=evidence,
            place=place,
            advice=advice,
            loop=loop.id,
            data={
                "share": part,
                "longest": pauses.longest,
                "total": pauses.total,
                "collections": list(loop.gc.collections),
                "collected": loop.gc.collected,
            },
        )
    ]
