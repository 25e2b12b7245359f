"""Workers are killed, the broker is restarted, connections are cut: every event is handled.

NORIA_BUS_ROUNDS=20 runs so many rounds on each broker, NORIA_BUS_EVENTS=20000 with so many events
each, as `nox -s kills` does. NORIA_SEED is added to the seeds.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

import noria
from noria.errors import BrokerUnavailable
from support.brokers import PROGRAMS, BrokerServer
from support.handled import Handled
from support.killed_workers import STALL_SHARE, TYPE, Log, Workers
from support.tcp_proxy import TCPProxy

ROUNDS = int(os.environ.get("NORIA_BUS_ROUNDS", "1"))
EVENTS = int(os.environ.get("NORIA_BUS_EVENTS", "1000"))
SEED = os.environ.get("NORIA_SEED", "")

WORKERS = 3
CONCURRENCY = 30
CLAIM_SECONDS = 1.0
KEYS = 12
# The most events that are emitted and not confirmed.
OUTSTANDING = 200
KILL_SECONDS = 0.5
RESTARTS = 3
CUTS = 3
# Events emitted a second, and the seconds for which events are emitted, at least.
RATE = 1500
EMIT_SECONDS = 2.5
# Seconds for what is left when nothing breaks any more.
DEADLINE = 90.0


class Round:
    """One run with one seed."""

    def __init__(self, server: BrokerServer, directory: Path, seed: int):
        self.server = server
        self.seed = seed
        self.random = chosen = random.Random(f"{SEED} {seed}")
        self.keys = [
            f"key-{chosen.randrange(KEYS)}" if chosen.random() < 0.6 else None
            for _ in range(EVENTS)
        ]
        self.seconds = max(EMIT_SECONDS, len(self.keys) / RATE)
        # Whether events have ids that the program chose: then the broker stores none twice.
        self.ids = bool(seed % 2)
        self.log = Log(directory / "handled")
        forgets = server.kind == "nats"
        self.handled = Handled(self.log.path, self.keys, CONCURRENCY, forgets=forgets)

    async def run(self) -> None:
        async with TCPProxy(self.server.port) as proxy:
            url = f"{self.server.kind}://127.0.0.1:{proxy.port}"
            workers = Workers(url, self.log, CONCURRENCY, CLAIM_SECONDS, self.seed)
            try:
                for _ in range(WORKERS):
                    workers.start()
                async with noria.Bus(url) as bus:
                    probing = asyncio.ensure_future(self._probe(bus))
                    try:
                        await self._break_and_emit(bus, proxy, workers)
                        await self._wait(bus, workers)
                    finally:
                        probing.cancel()
                        await asyncio.wait([probing])
            finally:
                workers.close()

    async def _break_and_emit(self, bus: noria.Bus, proxy: TCPProxy, workers: Workers) -> None:
        killing = asyncio.ensure_future(self._kill(workers))
        try:
            await asyncio.gather(self._emit(bus), self._restart(), self._cut(proxy))
        finally:
            killing.cancel()
            await asyncio.wait([killing])
        if not killing.cancelled():
            killing.result()

    async def _emit(self, bus: noria.Bus) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        pending: set[asyncio.Future[None]] = set()
        for number, key in enumerate(self.keys):
            early = started + number * self.seconds / len(self.keys) - loop.time()
            if early > 0.01:
                await asyncio.sleep(early)
            while len(pending) >= OUTSTANDING:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
            id = f"{self.seed}-{number}" if self.ids else None
            pending.add(bus.emit(TYPE, key=key, id=id, number=number, timeout=DEADLINE))
        await asyncio.gather(*pending)

    async def _kill(self, workers: Workers) -> None:
        while True:
            await asyncio.sleep(KILL_SECONDS)
            workers.kill(self.random.choice(sorted(workers.pids)))
            workers.start()

    async def _restart(self) -> None:
        for _ in range(RESTARTS):
            await asyncio.sleep(self.seconds / RESTARTS * self.random.uniform(0.6, 0.9))
            how = self.random.choice(["stop", "kill"])
            self.log.write("broker", how)
            await asyncio.to_thread(getattr(self.server, how))
            if self._has_lost_state():
                self.log.write("broker", "reset")
            await asyncio.to_thread(self.server.start)
            self.log.write("broker", "started")

    def _has_lost_state(self) -> bool:
        """Whether a nats-server was killed between truncating a consumer's state and writing it."""
        states = self.server.directory.glob("jetstream/*/streams/*/obs/*/o.dat")
        return any(not each.stat().st_size for each in states)

    async def _cut(self, proxy: TCPProxy) -> None:
        for _ in range(CUTS):
            await asyncio.sleep(self.seconds / CUTS * self.random.uniform(0.5, 0.9))
            self.log.write("cut")
            await proxy.cut()

    async def _probe(self, bus: noria.Bus) -> None:
        """Record when the broker, or the proxy, is slow."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await bus.emit("probe", timeout=DEADLINE)
            if loop.time() - started > STALL_SHARE * CLAIM_SECONDS:
                self.log.write("slow")
            await asyncio.sleep(0.05)

    async def _wait(self, bus: noria.Bus, workers: Workers) -> None:
        """Wait until all is handled and acknowledged."""
        end = asyncio.get_running_loop().time() + DEADLINE
        while self.handled.read() < len(self.keys) or await self._lag(bus):
            workers.check()
            if asyncio.get_running_loop().time() > end:
                missing = [n for n in range(len(self.keys)) if n not in self.handled.done]
                some = [(number, self.keys[number]) for number in missing[:20]]
                raise AssertionError(
                    f"{len(missing)} events are not handled: {some}; {await self._lag(bus)}"
                )
            await asyncio.sleep(0.02)
        workers.check()
        self.handled.read()
        assert await bus.dead() == []

    async def _lag(self, bus: noria.Bus) -> str:
        """Return what the broker has to give out, or has given out; an empty string if nothing."""
        try:
            [row] = [each for each in await bus.lag() if each.group]
        except BrokerUnavailable as error:
            return str(error)
        return str(row) if row.waiting or row.in_flight else ""

    def check(self) -> None:
        counts = self.handled.counts
        assert counts["broker started"] == RESTARTS
        assert counts["cut"] == CUTS
        assert counts["kill"] >= self.seconds / KILL_SECONDS / 2
        # What is published again has the id of the first publication; Redis checks only those that
        # the program chose.
        twice = 0 if self.ids or self.server.kind == "nats" else OUTSTANDING * (RESTARTS + CUTS)
        self.handled.check(stored_twice=twice)

    def close(self) -> None:
        self.log.close()
        self.handled.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("own_server", PROGRAMS, indirect=True)
@pytest.mark.usefixtures("quiet")
def test_nothing_is_lost(own_server: BrokerServer, seed: int, tmp_path: Path) -> None:
    round = Round(own_server, tmp_path, seed)
    try:
        asyncio.run(round.run())
        round.check()
    finally:
        round.close()
