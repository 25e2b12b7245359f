"""Waiting clients: when each of several simultaneous clients receives its first answer."""

from __future__ import annotations

from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import Experiment, Row
from noria.compare.measure.medians import merge_with_spread
from noria.compare.measure.rounds import Rounds
from noria.compare.measure.servers import Candidate, Servers, candidates
from noria.compare.noise import same_server_pair

KEYS = ("model", "client")


def steps(experiment: Experiment, models: list[str]) -> int:
    """Number of progress steps."""
    settings = experiment.settings
    return settings.rounds * len(candidates(models, settings.again))


def measure(experiment: Experiment, models: list[str]) -> list[Row]:
    """Return one row per model and client; times in ms since the first connect."""
    measured = candidates(models, experiment.settings.again)
    with Servers(experiment, measured) as servers:

        def one(candidate: Candidate, number: int) -> list[Row]:
            return _first_answers(experiment, servers, candidate, number)

        found, note = Rounds(experiment, measured).take("waiting clients", one)
    rows = []
    for candidate, each in found.items():
        if candidate.again:
            first = found[Candidate(candidate.model)]
            experiment.pairs += _pairs(candidate.model, first, each)
            continue
        whole = [row for group in each for row in group] or _rows(experiment, candidate.model)
        for row in merge_with_spread(whole, KEYS, experiment.settings.rounds):
            row["note"] = "; ".join(filter(None, [row["note"], note]))
            rows.append(row)
    return rows


def _pairs(model: str, first: list[list[Row]], again: list[list[Row]]) -> list[Row | None]:
    """Two servers of one model against each other: the first and the last answer of each round."""
    pairs = []
    for which, choose in (("first", min), ("last", max)):
        rounds = [
            [
                choose(
                    (t for row in group if (t := row["first_answer_ms"]) is not None), default=None
                )
                for group in each
            ]
            for each in (first, again)
        ]
        column = "first_answer_ms"
        pairs.append(
            same_server_pair(*rounds, figure="waiting", column=column, answer=which, model=model)
        )
    return pairs


def _rows(
    experiment: Experiment,
    model: str,
    times: list[float | None] | None = None,
    note: str = "",
) -> list[Row]:
    return [
        {"model": model, "client": number, "first_answer_ms": time, "note": note}
        for number, time in enumerate(times or [None] * experiment.settings.clients)
    ]


def _first_answers(
    experiment: Experiment, servers: Servers, candidate: Candidate, number: int
) -> list[Row]:
    """The rows of one model in one round."""
    settings = experiment.settings
    timeout = 2.0 + settings.clients * settings.hold_ms / 1000
    try:
        with servers.running(candidate, number) as server:
            message = {
                "command": "first_answers",
                "port": server.port,
                "timeout": timeout,
                "size": settings.size,
            }
            # First a single client, so that one-time work of the server delays no other.
            experiment.request(
                experiment.reply_timeout + timeout, **message, clients=1, hold_ms=0.0
            )
            times = experiment.request(
                experiment.reply_timeout + timeout,
                **message,
                clients=settings.clients,
                hold_ms=settings.hold_ms,
            )["first_answer_ms"]
    except ChildFailed as failed:
        return _rows(experiment, candidate.model, note=str(failed))
    return _rows(experiment, candidate.model, times)
