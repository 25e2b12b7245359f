"""The short way of messages through nats-py's client, and nats-py's own way, have one result."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import noria
from support import brokers
from support.loops import run_with_deadline

pytest.importorskip("nats")

from noria.bus.brokers.nats import client as module

DEADLINE = 40.0  # seconds
COUNT = 300


def short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._KNOWN, "this version of nats-py is not known: all messages go the long way"


def long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KNOWN", False)
    monkeypatch.delattr(module.BatchClient, "_process_msg", raising=False)


@pytest.mark.parametrize("own_server", ["nats"], indirect=True)
@pytest.mark.parametrize("way", [short_way, long_way])
def test_events_arrive(own_server: brokers.BrokerServer, way: Any, monkeypatch: Any) -> None:
    way(monkeypatch)
    found: list[int] = []

    async def main() -> None:
        bus = noria.Bus(own_server.url)
        over = asyncio.Event()

        @bus.on("count", group="g")
        async def handle(event: noria.Event) -> None:
            found.append(event.data["number"])
            if len(found) == COUNT:
                over.set()

        async with bus:
            await asyncio.gather(*(bus.emit("count", number=n) for n in range(COUNT)))
            await over.wait()

    run_with_deadline(main(), DEADLINE)
    assert sorted(found) == list(range(COUNT))


@pytest.mark.parametrize("own_server", ["nats"], indirect=True)
@pytest.mark.parametrize("way", [short_way, long_way])
def test_a_line_break_in_an_id_makes_no_header(
    own_server: brokers.BrokerServer, way: Any, monkeypatch: Any
) -> None:
    way(monkeypatch)

    async def main() -> None:
        bus = noria.Bus(own_server.url)
        # As a header of its own, this would have the server refuse the event.
        id = "1\r\nNats-Expected-Stream: another"
        await bus.emit("count", id=id, number=1)
        await bus.emit("count", id=id, number=1)
        [lag] = await bus.lag()
        assert lag.waiting == 1
        await bus.close()

    run_with_deadline(main(), DEADLINE)
