"""Clients that come at once: when each has its first answer."""

from __future__ import annotations

from noria.compare.measure.bench import Bench, Row
from noria.compare.measure.child import ChildFailed
from noria.compare.measure.medians import middle

KEYS = ("model", "client")


def steps(bench: Bench) -> int:
    """How many steps one model has."""
    return 1


def measure(bench: Bench, model: str) -> list[Row]:
    """One row for each client; times in ms since the first began to connect."""
    settings = bench.settings
    options = {"hold_ms": settings.hold_ms, "size": settings.size}
    timeout = 2.0 + settings.clients * settings.hold_ms / 1000
    note = ""
    times: list[float | None] = [None] * settings.clients
    try:
        bench.step(f"waiting clients: {model}")
        with bench.server(model) as server:
            order = {"do": "come", "port": server.port, "timeout": timeout, **options}
            # One alone first, so that nobody waits for what a server does only once.
            bench.order(bench.patience + timeout, **{**order, "clients": 1, "hold_ms": 0.0})
            order["clients"] = settings.clients
            tries = [
                bench.order(bench.patience + timeout, **order)["first_answer_ms"]
                for _ in range(settings.tries)
            ]
            times = [middle(each) for each in zip(*tries, strict=True)]
    except ChildFailed as failed:
        note = str(failed)
    return [
        {"model": model, "client": number, "first_answer_ms": time, "note": note}
        for number, time in enumerate(times)
    ]
