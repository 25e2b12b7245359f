"""One role of one peer, in a process of its own; the result is a line of JSON.

    python work.py PEER ROLE URL [--seconds N] [--count N] [--rate N]

The child adds its processor time, which the scheduler counts, to what it measured.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from buses.peer import CONCURRENCY, Payload, Peer, payload

# Events that a worker handles before it is measured.
WARM_EVENTS = 1000
WARM_SECONDS = 0.5
# Seconds without an event until a worker gives up.
PATIENCE_SECONDS = 8.0


def make(name: str, url: str) -> Peer:
    """Return the peer."""
    library, _, mode = name.partition("-")
    if library == "noria":
        from buses.noria_peer import NoriaPeer

        return NoriaPeer(url)
    from buses import faststream_peer

    kind = url.partition(":")[0]
    peer = faststream_peer.RedisPeer if kind == "redis" else faststream_peer.NatsPeer
    return peer(url, mode if mode in faststream_peer.MODES else "concurrent")


def runner(name: str) -> Callable[[Coroutine[Any, Any, None]], object]:
    """Return the function that runs the program on the peer's event loop."""
    if name == "noria":
        import noria

        return noria.run
    if name.endswith("-asyncio"):
        return asyncio.run
    import uvloop

    run: Callable[[Coroutine[Any, Any, None]], object] = uvloop.run
    return run


class Meter:
    """Counts events from the end of the warm-up on, with elapsed and processor time."""

    def __init__(self, warm: int) -> None:
        self.warm = warm
        self.events = 0
        self.begin()

    def begin(self) -> None:
        self.first = self.events
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def result(self) -> dict[str, float]:
        events = self.events - self.first
        return {
            "events": events,
            "seconds": time.perf_counter() - self.began,
            "cpu": time.process_time() - self.cpu,
        }


def report(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


async def publish(peer: Peer, seconds: float, batches: bool) -> None:
    """Publish for some seconds: CONCURRENCY producers, or batches of as many events."""
    meter = Meter(0)
    end = time.monotonic() + WARM_SECONDS + seconds
    numbers = itertools.count()

    async def produce() -> None:
        while time.monotonic() < end:
            await peer.emit(payload(next(numbers)))
            meter.events += 1

    async def produce_batches() -> None:
        while time.monotonic() < end:
            await peer.emit_all([payload(next(numbers)) for _ in range(CONCURRENCY)])
            meter.events += CONCURRENCY

    await peer.start()
    asyncio.get_running_loop().call_later(WARM_SECONDS, meter.begin)
    if batches:
        await produce_batches()
    else:
        await asyncio.gather(*(produce() for _ in range(CONCURRENCY)))
    report(meter.result())
    await peer.stop()


async def seed(peer: Peer) -> None:
    """Publish one event, which is copied."""
    await peer.start()
    await peer.emit(payload(0))
    await peer.stop()


async def handle(peer: Peer, count: int, seconds: float) -> None:
    """Handle what is stored, `count` events, for some seconds at most."""
    meter = Meter(WARM_EVENTS)
    over = asyncio.Event()
    end = float("inf")

    def received(_payload: Payload) -> None:
        nonlocal end
        meter.events += 1
        if meter.events == WARM_EVENTS:
            meter.begin()
            end = meter.began + seconds
        if not over.is_set() and (
            meter.events >= count or (not meter.events % 50 and time.perf_counter() > end)
        ):
            over.set()
            report(meter.result())

    peer.subscribe(received)
    await peer.start()
    await patiently(over, lambda: meter.events)
    await peer.stop()


async def work(peer: Peer, count: int) -> None:
    """Handle `count` events and report how long each was on its way."""
    seconds: list[float] = []
    over = asyncio.Event()

    def received(event: Payload) -> None:
        seconds.append(time.monotonic() - event["sent"])
        if len(seconds) == count:
            over.set()

    peer.subscribe(received)
    await peer.start()
    print("ready", flush=True)
    cpu = time.process_time()
    await patiently(over, lambda: len(seconds))
    report({"latencies": seconds, "cpu": time.process_time() - cpu})
    await peer.stop()


async def emit(peer: Peer, count: int, rate: float) -> None:
    """Emit at a fixed rate, whether or not the former events have arrived."""
    await peer.start()
    pending: set[asyncio.Future[Any]] = set()

    def confirmed(task: asyncio.Future[Any]) -> None:
        pending.discard(task)
        task.result()

    began = time.monotonic() + 0.1
    number = 0
    while number < count:
        due = began + number / rate
        pause = due - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
            continue
        if len(pending) >= CONCURRENCY:
            # It has fallen behind; the events that wait are late from their intended time on.
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            continue
        task = asyncio.ensure_future(peer.emit(payload(number, due)))
        pending.add(task)
        task.add_done_callback(confirmed)
        number += 1
    await asyncio.gather(*pending)
    report({"cpu": time.process_time()})
    await peer.stop()


async def patiently(over: asyncio.Event, progress: Callable[[], int]) -> None:
    """Wait for an event; give up if nothing progresses."""
    seen = -1
    while not over.is_set() and progress() != seen:
        seen = progress()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await over.wait()
        except TimeoutError:
            continue


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("peer")
    p.add_argument("role", choices=["publish", "batches", "seed", "handle", "work", "emit"])
    p.add_argument("url")
    p.add_argument("--seconds", type=float, default=2.0)
    p.add_argument("--count", type=int, default=10_000)
    p.add_argument("--rate", type=float, default=2000.0)
    o = p.parse_args()
    peer = make(o.peer, o.url)
    coroutine = {
        "publish": lambda: publish(peer, o.seconds, False),
        "batches": lambda: publish(peer, o.seconds, True),
        "seed": lambda: seed(peer),
        "handle": lambda: handle(peer, o.count, o.seconds),
        "work": lambda: work(peer, o.count),
        "emit": lambda: emit(peer, o.count, o.rate),
    }[o.role]

    async def whole() -> None:
        await coroutine()

    runner(o.peer)(whole())


if __name__ == "__main__":
    main()
