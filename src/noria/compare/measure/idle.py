"""What one message costs beside connections that say nothing."""

from __future__ import annotations

import time

import noria
from noria.compare.measure.bench import OVER, Bench, Row, Server
from noria.compare.measure.child import ChildFailed

KEYS = ("model", "idle")
ALONE = "serves one connection at a time: an idle one before it keeps it waiting for ever"


def steps(bench: Bench) -> int:
    """How many steps one model has."""
    return len(bench.settings.idle)


def measure(bench: Bench, model: str) -> list[Row]:
    """One row for each number of idle connections, all beside one and the same server.

    The time is the median round trip of one active connection, the processor time the server's.
    """
    rows: list[Row] = []
    failure = ""
    if bench.over:
        return [_empty(model, idle, OVER) for idle in bench.settings.idle]
    try:
        with bench.server(model) as server:
            for idle in bench.settings.idle:
                row = _row(bench, model, server, idle)
                rows.append(row)
    except ChildFailed as failed:
        failure = str(failed)
    rows += [_empty(model, idle, failure) for idle in bench.settings.idle[len(rows) :]]
    # Only now, with the server gone: it need not see thousands of connections end.
    try:
        bench.order(bench.patience, do="leave")
    except ChildFailed:
        bench.dismiss()
    return rows


def _empty(model: str, idle: int, note: str) -> Row:
    return {
        "model": model,
        "idle": idle,
        "us_per_message": None,
        "cpu_us_per_message": None,
        "note": note,
    }


def _row(bench: Bench, model: str, server: Server, idle: int) -> Row:
    row = _empty(model, idle, "")
    limit = ""
    try:
        bench.step(f"idle connections: {model}, {idle:,}")
        if idle and noria.info(model).limit == "one":
            row["note"] = ALONE
            return row
        limit = _open(bench, server, idle)
        if not limit:
            found, use = bench.load(server, connections=1, seconds=bench.settings.idle_seconds)
            row["us_per_message"] = found["p50_us"]
            row["cpu_us_per_message"] = use and use.user_us + use.kernel_us
            row["note"] = server.limit() or (use.note if use else "")
    except ChildFailed as failed:
        limit = server.limit() or str(failed)
    row["note"] = row["note"] or limit
    return row


def _open(bench: Bench, server: Server, idle: int) -> str:
    """Opens connections until the server has accepted so many; why not, if it did not.

    In batches: thousands at once would be thousands of threads that begin at once, in one of the
    models, and a backlog that overflows in others.
    """
    settings = bench.settings
    until = time.monotonic() + settings.idle_patience
    found = server.stats()
    while found["open"] < idle and not found["refused"]:
        if time.monotonic() > until:
            return f"{found['open']:,} of {idle:,} were accepted in {settings.idle_patience:g} s"
        total = min(idle, found["open"] + settings.idle_batch)
        bench.order(bench.patience, do="rest", port=server.port, total=total)
        while time.monotonic() < until:
            found = server.stats()
            if found["open"] >= total or found["refused"]:
                break
            time.sleep(0.002)
    return server.limit()
