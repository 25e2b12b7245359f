"""Throughput: messages per second, latency and cost, by number of connections."""

from __future__ import annotations

import noria
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import Experiment, Row
from noria.compare.measure.medians import merge_with_spread
from noria.compare.measure.rounds import Rounds
from noria.compare.measure.servers import Candidate, Servers, candidates
from noria.compare.noise import same_server_pair

KEYS = ("model", "connections")


def steps(experiment: Experiment, models: list[str]) -> int:
    """Number of progress steps."""
    settings = experiment.settings
    return len(settings.connections) * settings.rounds * len(candidates(models, settings.again))


def measure(experiment: Experiment, models: list[str]) -> list[Row]:
    """Return one row per model and number of connections."""
    settings = experiment.settings
    measured = candidates(models, settings.again)
    rows: dict[Candidate, list[Row]] = {candidate: [] for candidate in measured}
    with Servers(experiment, measured) as servers:
        rounds = Rounds(experiment, measured)
        for connections in settings.connections:

            def one(candidate: Candidate, number: int, connections: int = connections) -> Row:
                return _row(experiment, servers, candidate, connections, number)

            found, note = rounds.take(f"throughput: {connections:,} connections", one)
            for candidate, each in found.items():
                each = each or [_empty(candidate.model, connections)]
                [row] = merge_with_spread(each, KEYS, settings.rounds)
                row["note"] = "; ".join(filter(None, [row["note"] or _unserved(row), note]))
                rows[candidate].append(row)
    for candidate in measured:
        if candidate.again:
            experiment.pairs += _pairs(rows[Candidate(candidate.model)], rows[candidate])
    return [row for candidate in measured if not candidate.again for row in rows[candidate]]


def _unserved(row: Row) -> str:
    """A note if clients received no answer in most of the rounds."""
    served, connections = row["served"], row["connections"]
    if served is None or served >= connections:
        return ""
    return f"{served:,} of {connections:,} connections received an answer"


def _pairs(rows: list[Row], others: list[Row]) -> list[Row | None]:
    """The servers of one model against each other."""
    return [
        same_server_pair(
            row["rounds"][column],
            other["rounds"][column],
            figure="throughput",
            column=column,
            connections=row["connections"],
            model=row["model"],
        )
        for row, other in zip(rows, others, strict=True)
        for column in ("messages_per_second", "cpu_us")
    ]


def _empty(model: str, connections: int) -> Row:
    return {
        "model": model,
        "connections": connections,
        "served": None,
        "messages": None,
        "messages_per_second": None,
        "p50_us": None,
        "p99_us": None,
        "p999_us": None,
        "cpu_us": None,
        "user_us": None,
        "kernel_us": None,
        "syscalls_per_message": None,
        "empty_asks_per_message": None,
        "note": "",
    }


def _row(
    experiment: Experiment,
    servers: Servers,
    candidate: Candidate,
    connections: int,
    number: int,
) -> Row:
    row, info = _empty(candidate.model, connections), noria.info(candidate.model)
    notes = []
    if info.limit == "one" and connections > 1:
        notes.append("serves one connection at a time: the others wait")
        if number >= experiment.settings.unserved_rounds:
            return row | {"note": notes[0]}
    try:
        with servers.running(candidate, number) as server:
            try:
                found, cost = experiment.load(
                    server, connections=connections, seconds=experiment.settings.seconds
                )
            finally:
                refusals = server.refusals()
    except ChildFailed as failed:
        row["note"] = "; ".join(filter(None, [*notes, str(failed)]))
        return row
    for key in ("served", "messages", "messages_per_second", "p50_us", "p99_us", "p999_us"):
        row[key] = found[key]
    if cost is not None:
        row["cpu_us"] = cost.user_us + cost.kernel_us
        row["user_us"], row["kernel_us"] = cost.user_us, cost.kernel_us
        row["syscalls_per_message"] = cost.syscalls
        row["empty_asks_per_message"] = cost.empty_polls
    if info.capabilities["readiness"] == "emulated":
        notes.append("polls all sockets every 1 ms, its default interval")
    row["note"] = "; ".join(filter(None, [refusals, *notes]))
    return row
