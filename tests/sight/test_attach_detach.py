"""Observers and recorders attach and detach many times under load: nothing is lost or leaked.

NORIA_COUNTS=full does it 1,000 times; conftest.py checks descriptors and threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import noria
from noria.sight import lifetime
from noria.sight.client import Client
from noria.sight.observation import LoopFigures
from noria.sight.recording import observe_recording
from support.loops import count
from support.waiting import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("runtime_directory")

TIMES = count(100, 1000)
MESSAGE = 1000
BUFFER = 1 << 22  # bytes


class Load:
    """An echo server and clients on one loop; the clients check that each message comes back."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.sent = 0
        self.received = 0
        self.echoed = 0

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.echoed += len(data)
            writer.write(data)
        writer.close()

    async def client(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not self.stop.is_set():
            message = b"%0*d" % (MESSAGE, self.sent)
            self.sent += MESSAGE
            writer.write(message)
            assert await reader.readexactly(MESSAGE) == message
            self.received += MESSAGE
            await asyncio.sleep(0.001)  # so that an observer that polls rarely loses nothing
        writer.close()
        await writer.wait_closed()

    async def main(self) -> None:
        async with await asyncio.start_server(self.echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.gather(*(self.client(port) for _ in range(4)))
        while self.echoed < self.sent or len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.005)


@contextlib.contextmanager
def running(load: Load) -> Iterator[None]:
    """Run the load in a thread; at the end each byte must have come back."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            noria.run(load.main())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        eventually(lambda: load.received or errors)
        yield
    finally:
        load.stop.set()
        thread.join(DEADLINE)
    assert not thread.is_alive()
    assert not errors
    assert load.sent == load.received == load.echoed > 0


def rings_mapped() -> int:
    """Return the number of mappings of rings and of the names beside them."""
    return Path("/proc/self/maps").read_text().count("memfd:noria-")


def descriptors() -> int:
    """Return the number of descriptors, without those that are opened at a first long turn."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += not os.readlink(f"/proc/self/fd/{name}").endswith("/schedstat")
    return found


def total(loop: LoopFigures, name: str) -> int:
    return sum(getattr(sample, name) for sample in loop.samples)


def test_observers_come_and_go(capfd: pytest.CaptureFixture[str]) -> None:
    load = Load()
    with noria.watch(buffer=BUFFER, report_blocks=False) as watch:
        assert watch.socket is not None
        with Client.connect(watch.socket) as first:
            observer = first.observer()
            with running(load):
                before = descriptors()
                for _ in range(TIMES):
                    observer.poll()
                    with Client.connect(watch.socket) as client:
                        other = client.observer()
                        seen = other.observe()
                        other.close()
                    assert seen.loops[0].turns > 0
                    assert seen.answering
                agent = lifetime.active()
                assert agent is not None
                assert agent.server is not None
                server = agent.server
                eventually(lambda: len(server.clients) == 1)
                eventually(lambda: descriptors() <= before)
                assert rings_mapped() <= 3  # the loop's own, the watchdog's, the first observer's
            (loop,) = observer.observe().loops
            observer.close()
    assert rings_mapped() == 0
    # The first observer was there all the time: it has seen each byte, of both ends.
    assert loop.dropped == 0
    assert total(loop, "bytes_in") == total(loop, "bytes_out") == 2 * load.sent
    assert capfd.readouterr().err == ""


def test_recorders_come_and_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load = Load()
    path = tmp_path / "run.noria"
    with running(load):
        before = descriptors(), threading.active_count()
        for number in range(TIMES):
            if number % 10:
                with noria.watch(buffer=BUFFER, report_blocks=False) as watch:
                    assert watch.agent is not None
                    eventually(lambda: watch.agent and watch.agent.loops)
            else:
                with noria.record(path, buffer=BUFFER, report_blocks=False):
                    enough = load.received + 21 * MESSAGE
                    eventually(lambda enough=enough: load.received >= enough)  # type: ignore[misc]
                (loop,) = observe_recording(path).loops
                assert total(loop, "bytes_in") >= 20 * MESSAGE
                assert loop.dropped == 0
        assert lifetime.active() is None
        eventually(lambda: (descriptors(), threading.active_count()) == before)
        assert rings_mapped() == 0
    assert capfd.readouterr().err == ""
