"""The figures of a bus, as noria.bus.figures returns them."""

from __future__ import annotations

from typing import Any

from noria.bus.stats import HandlerStats, PublishStats


def bus_figures() -> dict[str, Any]:
    """Return those of a bus that has published, handled, failed, and knows its lag."""
    published = PublishStats()
    published.published, published.failed, published.batches = 7, 1, 3
    published.seconds.observe(0.003)
    handler = HandlerStats()
    handler.handled, handler.failed, handler.retried, handler.dead = 5, 3, 2, 1
    handler.returned, handler.lost, handler.in_flight = 4, 6, 8
    handler.seconds.observe(0.002)
    handler.seconds.observe(100.0)
    return {
        "broker": "redis://127.0.0.1:6379",
        "published": published.as_dict(),
        "handlers": [
            {"type": "job.done", "group": "jobs", **handler.as_dict()},
            {"type": "*", "group": None, **HandlerStats().as_dict()},
        ],
        "lag": [
            {"type": "job.done", "group": "jobs", "waiting": 9, "in_flight": 8, "delayed": None},
        ],
    }


BUS = bus_figures()
