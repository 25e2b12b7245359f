"""What one message costs beside connections that say nothing."""

from __future__ import annotations

import time

import noria
from noria.compare.bench import PATIENCE, Bench, Row, Server
from noria.compare.child import ChildFailed

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
    try:
        with bench.server(model) as server:
            for idle in bench.settings.idle:
                rows.append(_row(bench, model, server, idle))
    except ChildFailed as failed:
        failure = str(failed)
    rows += [_empty(model, idle, failure) for idle in bench.settings.idle[len(rows) :]]
    # Only now, with the server gone: it need not see thousands of connections end.
    try:
        bench.order(PATIENCE, do="leave")
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
        bench.order(PATIENCE, do="rest", port=server.port, total=idle)
        limit = _settle(server, idle)
        if not limit:
            found, use = bench.load(server, connections=1, seconds=bench.settings.idle_seconds)
            row["us_per_message"] = found["p50_us"]
            row["cpu_us_per_message"] = use and use.user_us + use.kernel_us
            row["note"] = server.limit()
    except ChildFailed as failed:
        limit = server.limit() or str(failed)
    row["note"] = row["note"] or limit
    return row


def _settle(server: Server, idle: int) -> str:
    """Waits until the server has accepted them all; why not, if it refuses some."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = server.stats()
        if found["refused"]:
            # Those to come would be refused as well: there is no need to wait for them.
            return server.limit()
        if found["open"] >= idle:
            return ""
        time.sleep(0.005)
    return f"only {found['open']:,} of {idle:,} connections were accepted in {PATIENCE:.0f} s"
