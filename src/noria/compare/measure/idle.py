"""Idle connections: the cost of one message beside connections that send nothing."""

from __future__ import annotations

import time

import noria
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.experiment import OUT_OF_TIME, Experiment, Row, ServerProcess

KEYS = ("model", "idle")
ONE_CONNECTION = "serves one connection at a time: an active one waits forever behind an idle one"


def steps(experiment: Experiment) -> int:
    """Number of steps of one model."""
    return len(experiment.settings.idle)


def measure(experiment: Experiment, model: str) -> list[Row]:
    """Return one row per number of idle connections, all to the same server.

    The time is the median round trip of one active connection, the CPU time that of the server.
    """
    rows: list[Row] = []
    failure = ""
    if experiment.out_of_time:
        return [_empty(model, idle, OUT_OF_TIME) for idle in experiment.settings.idle]
    try:
        with experiment.server(model) as server:
            for idle in experiment.settings.idle:
                row = _row(experiment, model, server, idle)
                rows.append(row)
    except ChildFailed as failed:
        failure = str(failed)
    rows += [_empty(model, idle, failure) for idle in experiment.settings.idle[len(rows) :]]
    # After the server has ended, so that it does not process thousands of closes.
    try:
        experiment.request(experiment.reply_timeout, command="close_idle")
    except ChildFailed:
        experiment.stop_clients()
    return rows


def _empty(model: str, idle: int, note: str) -> Row:
    return {
        "model": model,
        "idle": idle,
        "us_per_message": None,
        "cpu_us_per_message": None,
        "note": note,
    }


def _row(experiment: Experiment, model: str, server: ServerProcess, idle: int) -> Row:
    row = _empty(model, idle, "")
    limit = ""
    try:
        experiment.step(f"idle connections: {model}, {idle:,}")
        if idle and noria.info(model).limit == "one":
            row["note"] = ONE_CONNECTION
            return row
        limit = _open_idle(experiment, server, idle)
        if not limit:
            found, cost = experiment.load(
                server, connections=1, seconds=experiment.settings.idle_seconds
            )
            row["us_per_message"] = found["p50_us"]
            row["cpu_us_per_message"] = cost and cost.user_us + cost.kernel_us
            row["note"] = server.refusals() or (cost.note if cost else "")
    except ChildFailed as failed:
        limit = server.refusals() or str(failed)
    row["note"] = row["note"] or limit
    return row


def _open_idle(experiment: Experiment, server: ServerProcess, idle: int) -> str:
    """Open connections until the server has accepted `idle`; return why it did not, or "".

    They open in batches: thousands at once would overflow the backlog, and would start thousands of
    threads at once on the model ``threaded``.
    """
    settings = experiment.settings
    until = time.monotonic() + settings.idle_timeout
    found = server.stats()
    while found["open"] < idle and not found["refused"]:
        if time.monotonic() > until:
            return f"{found['open']:,} of {idle:,} were accepted in {settings.idle_timeout:g} s"
        total = min(idle, found["open"] + settings.idle_batch)
        experiment.request(
            experiment.reply_timeout, command="open_idle", port=server.port, total=total
        )
        while time.monotonic() < until:
            found = server.stats()
            if found["open"] >= total or found["refused"]:
                break
            time.sleep(0.002)
    return server.refusals()
