"""Waiting clients: when each of several simultaneous clients receives its first answer."""

from __future__ import annotations

from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import Experiment, Row
from noria.compare.measure.medians import median_number

KEYS = ("model", "client")


def steps(experiment: Experiment) -> int:
    """Number of steps of one model."""
    return 1


def measure(experiment: Experiment, model: str) -> list[Row]:
    """Return one row per client; times in ms since the first connect."""
    settings = experiment.settings
    options = {"hold_ms": settings.hold_ms, "size": settings.size}
    timeout = 2.0 + settings.clients * settings.hold_ms / 1000
    note = ""
    times: list[float | None] = [None] * settings.clients
    try:
        experiment.step(f"waiting clients: {model}")
        with experiment.server(model) as server:
            message = {
                "command": "first_answers",
                "port": server.port,
                "timeout": timeout,
                **options,
            }
            # First a single client, so that one-time work of the server delays no other.
            experiment.request(
                experiment.reply_timeout + timeout, **{**message, "clients": 1, "hold_ms": 0.0}
            )
            message["clients"] = settings.clients
            repeats = [
                experiment.request(experiment.reply_timeout + timeout, **message)["first_answer_ms"]
                for _ in range(settings.repeats)
            ]
            times = [median_number(each) for each in zip(*repeats, strict=True)]
    except ChildFailed as failed:
        note = str(failed)
    return [
        {"model": model, "client": number, "first_answer_ms": time, "note": note}
        for number, time in enumerate(times)
    ]
