"""The transports under thousands of seeds of a faulty network; bytes and handler order checked.

`NORIA_COUNTS=full` runs 10,000 seeds, `NORIA_SEEDS` another number.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from noria._core.loop import Loop
from noria._core.models.simulated import STYLES, Simulated, Stuck
from noria._core.transport import StreamSet
from support.loops import count

SEEDS = int(os.environ.get("NORIA_SEEDS", count(2000, 10000)))
SLICES = 8


class Recorded(asyncio.Protocol):
    """Echoes in one of several ways, and checks the order of its callbacks."""

    def __init__(self, sim: Simulated, loop: Loop):
        self.sim = sim
        self.loop = loop
        self.calls: list[str] = []
        self.got = bytearray()
        self.written = bytearray()
        self.writing_paused = False
        self.manner = sim.chance.below(6)

    def connection_made(self, transport: Any) -> None:
        assert self.calls == []
        self.calls.append("made")
        self.transport = transport
        if self.manner == 1:
            transport.set_write_buffer_limits(high=64)

    def data_received(self, data: bytes) -> None:
        assert self.calls in (["made"], ["made", "data"]), self.calls
        assert data
        assert self.transport.is_reading()
        if self.calls[-1] != "data":
            self.calls.append("data")
        self.got += data
        self.reply(data)
        chance = self.sim.chance
        if self.manner == 2 and chance.below(4) == 0:
            self.transport.pause_reading()
            self.loop.call_later(chance.below(100) / 1e6, self.transport.resume_reading)
        elif self.manner == 3 and len(self.got) > 3000:
            self.transport.close()
        elif self.manner == 4 and len(self.got) > 5000:
            self.transport.abort()

    def reply(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.written += data
        if self.manner == 5 and len(data) > 2:
            self.transport.writelines([data[:1], memoryview(data)[1:2], bytearray(data[2:])])
        elif self.manner == 1:
            changed = bytearray(data)
            self.transport.write(changed)
            changed[:] = bytes(len(changed))
        else:
            self.transport.write(data)

    def pause_writing(self) -> None:
        assert not self.writing_paused
        self.writing_paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        assert self.writing_paused
        self.writing_paused = False
        self.transport.resume_reading()

    def eof_received(self) -> bool:
        assert "eof" not in self.calls
        assert "lost" not in self.calls
        self.calls.append("eof")
        if self.manner == 0:
            self.loop.call_later(0.0001, self.transport.write_eof)
            self.loop.call_later(0.0002, self.transport.close)
            return True
        return False

    def connection_lost(self, error: Exception | None) -> None:
        assert "lost" not in self.calls
        self.calls.append("lost")
        self.error = error


class Peer:
    """The client: sends its payload as buffers allow, reads at random times, then closes."""

    def __init__(self, sim: Simulated, listener: Any, size: int):
        self.sim = sim
        self.payload = sim.chance.data(size)
        self.sent = 0
        self.received = bytearray()
        self.manner = sim.chance.below(8)  # 0: aborts midway
        self.socket = sim.connect(listener, 1 + sim.chance.below(4096))
        self.finished = False
        self.step()

    def step(self) -> None:
        end = self.socket
        self.received += end.take(1 + self.sim.chance.below(2000))
        if end.at_end:
            end.close()
            self.finished = True
            return
        if self.manner == 0 and self.sent * 2 > len(self.payload):
            end.abort()
            self.finished = True
            return
        if self.sent < len(self.payload):
            try:
                self.sent += end.send(self.payload[self.sent : self.sent + 1500])
            except BrokenPipeError:
                self.sent = len(self.payload)
            if self.sent == len(self.payload):
                end.shutdown()
        self.sim.at(self.sim.clock + 1 + self.sim.chance.below(30000), self.step)


def simulate(seed: int, faults: float = 1.0) -> Simulated:
    """Simulate a few peers, an echo server and a faulty kernel until all peers have closed."""
    sim = Simulated(seed, STYLES[seed % len(STYLES)], faults)
    loop = Loop(sim)
    errors: list[BaseException] = []
    loop.on_error = errors.append
    protocols: list[Recorded] = []

    def factory() -> Recorded:
        protocols.append(Recorded(sim, loop))
        return protocols[-1]

    group = StreamSet()
    listener = sim.listen(loop, factory, group)
    peers = [Peer(sim, listener, 1 + sim.chance.below(8000)) for _ in range(1 + seed % 3)]

    def look() -> None:
        if all(peer.finished for peer in peers) and not group:
            loop.stop()
        else:
            loop.call_later(0.001, look)

    loop.call_soon(look)
    loop.call_at(10.0, loop.stop)
    loop.run()
    listener.close()

    assert not errors, errors
    assert sim.clock < 10_000_000_000, "the simulation did not end within ten virtual seconds"
    # Only a peer that aborted may have closed before it was accepted.
    assert len(peers) >= len(protocols) >= sum(1 for peer in peers if peer.manner)
    assert not group
    for protocol in protocols:
        assert protocol.calls[0] == "made"
        assert protocol.calls[-1] == "lost"
    for peer in peers:
        # With any faults, the echoed bytes are a prefix of those sent.
        assert bytes(peer.received) == peer.payload[: len(peer.received)]
    whole = [p for p in protocols if p.manner in (0, 1, 2, 5) and p.error is None]
    whole_got = sorted(bytes(p.got) for p in whole if "eof" in p.calls)
    for got in whole_got:
        [peer] = [peer for peer in peers if peer.payload.startswith(got) and got]
        if peer.manner:
            assert got == peer.payload
            assert peer.received == peer.payload
    assert sim.open_sockets() == 0
    assert b"CLOSED TWICE" not in sim.trace()
    loop.close()
    return sim


@pytest.mark.parametrize("part", range(SLICES))
def test_seeds(part: int) -> None:
    for seed in range(part, SEEDS, SLICES):
        try:
            simulate(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("style", range(3))
def test_the_same_seed_gives_the_same_trace(style: int) -> None:
    first = simulate(300 + style).trace()
    assert len(first) > 500
    assert simulate(300 + style).trace() == first
    assert simulate(303 + style).trace() != first


def test_faults_do_happen() -> None:
    """The traces contain the faults that the seeds are meant to cause."""
    text = b"".join(simulate(seed).trace() for seed in range(200))
    for fault in (b" -4\n", b" -11\n", b" -104\n", b" -24\n", b"complete"):
        assert fault in text, fault


def test_without_faults_everything_arrives() -> None:
    for seed in range(30):
        sim = simulate(seed, faults=0.0)
        assert b" -4\n" not in sim.trace()


def test_the_clock_is_virtual() -> None:
    sim = Simulated(1)
    loop = Loop(sim)
    times: list[float] = []
    loop.call_later(3600, lambda: (times.append(loop.time()), loop.stop()))
    loop.run()
    assert times == [3600.0]
    loop.close()


def test_a_wait_without_events_is_reported() -> None:
    loop = Loop(Simulated(1))
    with pytest.raises(Stuck):
        loop.run()
    loop.close()


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="level, edge, completion"):
        Simulated(1, "tilted")
