"""The two phases of an input: when a message was waited for, and when it was copied."""

from __future__ import annotations

from noria.compare.measure.bench import Bench, Row
from noria.compare.measure.child import ChildFailed

KEYS = ("model", "sample")
WARMUP = 10


def steps(bench: Bench) -> int:
    """How many steps one model has."""
    return 1


def measure(bench: Bench, model: str) -> list[Row]:
    """One row for each sample message; times in ns since it was sent."""
    settings = bench.settings
    try:
        bench.step(f"the two phases: {model}")
        with bench.server(model, "--record", str(settings.sample_size)) as server:
            sent = bench.order(
                bench.patience + settings.samples * settings.pause_ms / 1000,
                do="send",
                port=server.port,
                size=settings.sample_size,
                samples=settings.samples,
                warmup=WARMUP,
                pause_ms=settings.pause_ms,
            )["samples"]
            seen = server.child.ask(bench.patience, ask="samples")["samples"]
    except ChildFailed as failed:
        return [{"model": model, "sample": 0, "handler": None, "note": str(failed)}]
    # Matched from the front: what was sent first was also handled first.
    return [
        _row(model, number, departure, arrival)
        for number, (departure, arrival) in enumerate(zip(sent, seen[WARMUP:], strict=False))
    ]


def _row(model: str, number: int, departure: list[int], arrival: list[int]) -> Row:
    sent, arrived, returned = departure
    asked, ready, copy_begin, copy_end, asks, handler, pieces = arrival
    row: Row = {
        "model": model,
        "sample": number,
        # Asking that is at once answered leaves no earlier moment than the copy's own.
        "asked": (copy_begin if model == "nonblocking" and not asks else asked) - sent,
        "sent": 0,
        "arrived": arrived - sent,
        "returned": returned - sent,
        "ready": ready - sent if ready else None,
        "copy_begin": copy_begin - sent if copy_begin else None,
        # Where the kernel copies on its own, the process knows of it by the completion.
        "copy_end": (copy_end or ready) - sent,
        "handler": handler - sent,
        "pieces": pieces,
    }
    if model == "nonblocking":
        row["asks"] = asks
    return row
