"""Metrics of buses: samples, what is added up, and a scrape of a bus that runs."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import pytest

pytest.importorskip("prometheus_client")

import noria
from noria.sight import lifetime
from noria.sight.metrics import serve_metrics
from noria.sight.metrics.families import WorkerTotals
from noria.sight.settings import Settings
from support.bus_figures import BUS
from support.metrics_registry import registry_of_workers

LIMIT = 20.0  # seconds to wait for any condition
BROKER = {"broker": "redis://127.0.0.1:6379"}
HANDLER = {**BROKER, "worker": "7", "type": "job.done", "group": "jobs"}


def test_figures_become_samples():
    # Two workers of one broker: what the broker knows is there once.
    workers = [
        WorkerTotals(pid, True, "1", "3", [], [json.loads(json.dumps(BUS))]) for pid in (7, 8)
    ]
    registry = registry_of_workers(workers)
    value = registry.get_sample_value
    worker = {**BROKER, "worker": "7"}
    assert value("noria_bus_events_published_total", worker) == 7
    assert value("noria_bus_publish_failures_total", worker) == 1
    assert value("noria_bus_publish_batches_total", worker) == 3
    assert value("noria_bus_publish_seconds_sum", worker) == 0.003
    assert value("noria_bus_publish_seconds_bucket", {**worker, "le": "0.0025"}) == 0
    assert value("noria_bus_publish_seconds_bucket", {**worker, "le": "0.005"}) == 1
    for name, expected in {
        "noria_bus_events_handled_total": 5,
        "noria_bus_handler_failures_total": 3,
        "noria_bus_events_retried_total": 2,
        "noria_bus_dead_letters_total": 1,
        "noria_bus_events_returned_total": 4,
        "noria_bus_claims_lost_total": 6,
        "noria_bus_events_in_flight": 8,
        "noria_bus_handler_seconds_count": 2,
        "noria_bus_handler_seconds_sum": 100.002,
    }.items():
        assert value(name, HANDLER) == expected, name
        assert value(name, {**HANDLER, "worker": "8"}) == expected, name
        assert value(name, {**HANDLER, "type": "*", "group": ""}) == 0, name
    assert value("noria_bus_handler_seconds_bucket", {**HANDLER, "le": "60.0"}) == 1
    assert value("noria_bus_handler_seconds_bucket", {**HANDLER, "le": "+Inf"}) == 2
    group = {**BROKER, "type": "job.done", "group": "jobs"}
    assert value("noria_bus_group_events_waiting", group) == 9
    assert value("noria_bus_group_events_in_flight", group) == 8
    assert value("noria_bus_group_events_delayed", group) is None  # the broker does not know


def test_a_scrape_of_a_bus_that_runs():
    agent = lifetime.acquire(Settings(socket=False, report_blocks=False))
    server = serve_metrics(agent)
    try:
        text = noria.run(_run_bus(f"http://{server.address}/metrics"))
    finally:
        server.close()
        lifetime.release()
    labels = 'broker="memory:scraped",group="jobs",type="job.done"'
    lines = [line for line in text.splitlines() if "memory:scraped" in line]
    assert any(line.startswith("noria_bus_events_published_total{") for line in lines)
    handled = [line for line in lines if line.startswith("noria_bus_events_handled_total{")]
    assert [line.rpartition(" ")[2] for line in handled] == ["3.0"]
    assert f"noria_bus_group_events_in_flight{{{labels}}} 0.0" in lines


async def _run_bus(url):
    """Handle three events; return the first scrape that has the lag."""
    bus = noria.Bus("memory:scraped")
    handled = asyncio.Event()

    @bus.on("job.done", group="jobs")
    async def job(event):
        if event.data["n"] == 2:
            handled.set()

    async with bus, asyncio.timeout(LIMIT):
        for n in range(3):
            await bus.emit("job.done", n=n)
        await handled.wait()
        while True:
            text = await asyncio.to_thread(_get, url)
            if "noria_bus_group_events_waiting{" in text:
                return text


def _get(url):
    with urllib.request.urlopen(url, timeout=LIMIT) as response:
        return response.read().decode()
