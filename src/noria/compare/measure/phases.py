"""The two phases of input: waiting for a message, and copying it."""

from __future__ import annotations

import noria
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import Experiment, Row
from noria.compare.measure.medians import median_number
from noria.compare.measure.rounds import Rounds
from noria.compare.measure.servers import Candidate, Servers, candidates
from noria.compare.noise import same_server_pair

WARMUP_MESSAGES = 4


def steps(experiment: Experiment, models: list[str]) -> int:
    """Number of progress steps."""
    settings = experiment.settings
    return settings.rounds * len(candidates(models, settings.again))


def measure(experiment: Experiment, models: list[str]) -> list[Row]:
    """Return one row per sample message, with the round of its send; times in ns since then."""
    settings = experiment.settings
    measured = candidates(models, settings.again)
    with Servers(experiment, measured, "--record", str(settings.sample_size)) as servers:

        def one(candidate: Candidate, number: int) -> list[Row]:
            return _samples(experiment, servers, candidate, number)

        found, note = Rounds(experiment, measured).take("the two phases", one)
    rows = []
    for candidate, each in found.items():
        if candidate.again:
            first = found[Candidate(candidate.model)]
            experiment.pairs.append(_pair(candidate.model, first, each))
            continue
        # Samples are not merged: each one stays a single real message.
        samples = [row for group in each for row in group if row["handler"] is not None]
        failed = [row for group in each for row in group if row["handler"] is None]
        samples = samples or failed[:1] or [_failed(candidate.model, 0, note)]
        rows += [{**row, "sample": number} for number, row in enumerate(samples)]
    return rows


def _pair(model: str, first: list[list[Row]], again: list[list[Row]]) -> Row | None:
    """Two servers of one model against each other: the medians of each round's samples."""
    rounds = [
        [median_number(row["handler"] for row in group) for group in each]
        for each in (first, again)
    ]
    return same_server_pair(*rounds, figure="phases", column="handler", model=model)


def _failed(model: str, number: int, note: str) -> Row:
    return {"model": model, "sample": 0, "round": number, "handler": None, "note": note}


def _samples(
    experiment: Experiment, servers: Servers, candidate: Candidate, number: int
) -> list[Row]:
    """The rows of one model in one round."""
    settings, model = experiment.settings, candidate.model
    try:
        with servers.running(candidate, number) as server:
            messages = settings.samples + WARMUP_MESSAGES
            sent = experiment.request(
                experiment.reply_timeout + messages * settings.pause_ms / 1000,
                command="send_samples",
                port=server.port,
                size=settings.sample_size,
                samples=settings.samples,
                warmup=WARMUP_MESSAGES,
                pause_ms=settings.pause_ms,
            )["samples"]
            seen = server.child.request(experiment.reply_timeout, command="samples")["samples"]
    except ChildFailed as failed:
        return [_failed(model, number, str(failed))]
    # In order: the first message sent is the first one handled.
    return [
        _row(model, number, departure, arrival)
        for departure, arrival in zip(sent, seen[WARMUP_MESSAGES:], strict=False)
    ]


def _row(model: str, number: int, departure: list[int], arrival: list[int]) -> Row:
    sent, arrived, returned = departure
    asked, ready, copy_begin, copy_end, asks, handler, pieces = arrival
    polls_sockets = noria.info(model).capabilities["readiness"] == "emulated"
    row: Row = {
        "model": model,
        "sample": 0,
        "round": number,
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
