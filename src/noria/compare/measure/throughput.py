"""Messages a second, latency, and what a message costs the server, by number of connections."""

from __future__ import annotations

import noria
from noria.compare.measure.bench import Bench, Row
from noria.compare.measure.child import ChildFailed

KEYS = ("model", "connections")


def steps(bench: Bench) -> int:
    """How many steps one model has."""
    return len(bench.settings.connections)


def measure(bench: Bench, model: str) -> list[Row]:
    """One row for each number of connections."""
    return [_row(bench, model, connections) for connections in bench.settings.connections]


def _row(bench: Bench, model: str, connections: int) -> Row:
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
        bench.step(f"throughput: {model}, {connections:,} connections")
        with bench.server(model) as server:
            try:
                found, use = bench.load(
                    server, connections=connections, seconds=bench.settings.seconds
                )
            finally:
                notes.append(server.limit())
    except ChildFailed as failed:
        row["note"] = "; ".join(filter(None, [*notes, str(failed)]))
        return row
    for key in ("served", "messages", "messages_per_second", "p50_us", "p99_us", "p999_us"):
        row[key] = found[key]
    if use is not None:
        row["user_us"], row["kernel_us"] = use.user_us, use.kernel_us
        row["syscalls_per_message"] = use.syscalls
        row["empty_asks_per_message"] = use.empty_asks
        notes.append(use.note)
    if noria.info(model).limit == "one" and connections > 1:
        notes.append("one connection is served at a time; the others wait")
    elif found["served"] < connections and not notes[0]:
        notes.append(f"{found['served']:,} of {connections:,} connections had an answer")
    if model == "nonblocking":
        notes.append("a round of asks each 1 ms, its default interval")
    row["note"] = "; ".join(filter(None, notes))
    return row
