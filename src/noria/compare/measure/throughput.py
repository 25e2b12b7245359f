"""Throughput: messages per second, latency and cost, by number of connections."""

from __future__ import annotations

import noria
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import Experiment, Row

KEYS = ("model", "connections")


def steps(experiment: Experiment) -> int:
    """Number of steps of one model."""
    return len(experiment.settings.connections)


def measure(experiment: Experiment, model: str) -> list[Row]:
    """Return one row per number of connections."""
    return [_row(experiment, model, connections) for connections in experiment.settings.connections]


def _row(experiment: Experiment, model: str, connections: int) -> Row:
    row: Row = {
        "model": model,
        "connections": connections,
        "served": None,
        "messages": None,
        "messages_per_second": None,
        "p50_us": None,
        "p99_us": None,
        "p999_us": None,
        "user_us": None,
        "kernel_us": None,
        "syscalls_per_message": None,
        "empty_asks_per_message": None,
        "note": "",
    }
    notes = []
    try:
        experiment.step(f"throughput: {model}, {connections:,} connections")
        with experiment.server(model) as server:
            try:
                found, cost = experiment.load(
                    server, connections=connections, seconds=experiment.settings.seconds
                )
            finally:
                notes.append(server.refusals())
    except ChildFailed as failed:
        row["note"] = "; ".join(filter(None, [*notes, str(failed)]))
        return row
    for key in ("served", "messages", "messages_per_second", "p50_us", "p99_us", "p999_us"):
        row[key] = found[key]
    if cost is not None:
        row["user_us"], row["kernel_us"] = cost.user_us, cost.kernel_us
        row["syscalls_per_message"] = cost.syscalls
        row["empty_asks_per_message"] = cost.empty_polls
        notes.append(cost.note)
    if noria.info(model).limit == "one" and connections > 1:
        notes.append("serves one connection at a time; the others wait")
    elif found["served"] < connections and not notes[0]:
        notes.append(f"{found['served']:,} of {connections:,} connections received an answer")
    if noria.info(model).capabilities["readiness"] == "emulated":
        notes.append("polls all sockets every 1 ms, its default interval")
    row["note"] = "; ".join(filter(None, notes))
    return row
