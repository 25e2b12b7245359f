"""The two phases of input: waiting for a message, and copying it."""

from __future__ import annotations

import noria
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import Experiment, Row

KEYS = ("model", "sample")
WARMUP_MESSAGES = 10


def steps(experiment: Experiment) -> int:
    """Number of steps of one model."""
    return 1


def measure(experiment: Experiment, model: str) -> list[Row]:
    """Return one row per sample message; times in ns since its send."""
    settings = experiment.settings
    try:
        experiment.step(f"the two phases: {model}")
        with experiment.server(model, "--record", str(settings.sample_size)) as server:
            sent = experiment.request(
                experiment.reply_timeout + settings.samples * settings.pause_ms / 1000,
                command="send_samples",
                port=server.port,
                size=settings.sample_size,
                samples=settings.samples,
                warmup=WARMUP_MESSAGES,
                pause_ms=settings.pause_ms,
            )["samples"]
            seen = server.child.request(experiment.reply_timeout, command="samples")["samples"]
    except ChildFailed as failed:
        return [{"model": model, "sample": 0, "handler": None, "note": str(failed)}]
    # In order: the first message sent is the first one handled.
    return [
        _row(model, number, departure, arrival)
        for number, (departure, arrival) in enumerate(
            zip(sent, seen[WARMUP_MESSAGES:], strict=False)
        )
    ]


def _row(model: str, number: int, departure: list[int], arrival: list[int]) -> Row:
    sent, arrived, returned = departure
    asked, ready, copy_begin, copy_end, asks, handler, pieces = arrival
    polls_sockets = noria.info(model).capabilities["readiness"] == "emulated"
    row: Row = {
        "model": model,
        "sample": number,
        # If the first poll succeeds, the time of the copy is the only one.
        "asked": (copy_begin if polls_sockets and not asks else asked) - sent,
        "sent": 0,
        "arrived": arrived - sent,
        "returned": returned - sent,
        "ready": ready - sent if ready else None,
        "copy_begin": copy_begin - sent if copy_begin else None,
        # If the kernel copies, the process knows of it from the completion.
        "copy_end": (copy_end or ready) - sent,
        "handler": handler - sent,
        "pieces": pieces,
    }
    if polls_sockets:
        row["asks"] = asks
    return row
