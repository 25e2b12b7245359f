"""What a loop records, on every model, and attaching to a loop that runs."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import noria
from noria._core.recorder.reader import RingReader
from noria._core.recorder.ring import Recorder
from noria._core.recorder.watchdog import LoopWatcher
from noria.errors import NoriaError
from noria.sight import record_kinds
from support.loops import CERTIFICATE, MODELS, run
from support.reactors import make_reactor, run_until
from support.running import ROOT

Record = tuple[str, int, int]
EVENTS = (ROOT / "src/noria/_core/recorder/events.pxd").read_text()
KINDS = {
    int(number): name
    for name, number in re.findall(
        r"^    ([A-Z_]+) = (\d+)", EVENTS.partition("enum RecordKind")[2], re.MULTILINE
    )
}
CODE_MASK = (1 << 48) - 1
KIND_MASK, FIRST_OF_TURN = 0x7F, 0x80


@contextmanager
def recorded(loop: Any, capacity: int = 1 << 16) -> Iterator[list[Record]]:
    """Record the loop for the time of the block; the list has the records afterwards."""
    recorder = Recorder(capacity)
    reader = RingReader(recorder.fd)
    found: list[Record] = []
    loop.attach_recorder(recorder)
    try:
        yield found
    finally:
        loop.detach_recorder()
        found += decoded(reader.pull())
        names = {each[0]: each[2] for each in recorder.names_after(0)}
        found.append(("NAMES", len(names), 0))
        recorded.names = names  # type: ignore[attr-defined]
        reader.close()
        recorder.close()


def decoded(records: bytes) -> list[Record]:
    """The records; one of a handler that also begins a turn has a TURN in front."""
    found = []
    for stamp, a, b in struct.iter_unpack("=QQQ", records):
        if stamp & FIRST_OF_TURN:
            found.append(("TURN", 1, 0))
        found.append((KINDS[stamp & KIND_MASK], a, b))
    return found


def of_kind(records: list[Record], kind: str) -> list[tuple[int, int]]:
    return [(a, b) for found, a, b in records if found == kind]


@pytest.mark.parametrize("model", MODELS)
def test_an_echo_over_tcp(model: str) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        await reader.read()
        writer.close()

    async def main() -> list[Record]:
        loop = asyncio.get_running_loop()
        with recorded(loop) as records:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.01)
            # asyncio.create_task of Python 3.11 names the task afterwards: nothing records it.
            task = loop.create_task(asyncio.sleep(0), name="named")
            await task
            server.close()
        return records

    records = run(main(), model)
    kinds = Counter(kind for kind, _, _ in records)
    for kind in ("TURN", "STEP", "CALL", "IO", "TIMER", "TASK_CREATED", "TASK_NAMED", "ACCEPT"):
        assert kinds[kind], (kind, kinds)
    assert kinds["OPEN"] == 2
    assert kinds["CLOSE"] >= 1
    callers = [(before, each) for before, each in pairwise(records) if each[0] == "CALLER"]
    assert callers
    for (kind, fd, _), (_, a, _) in callers:
        assert (kind, fd) == ("OPEN", a & 0xFFFFFFFF)
    assert sum(b for a, b in of_kind(records, "RECEIVE") if not a >> 32) == 10
    assert sum(b for a, b in of_kind(records, "SEND") if not a >> 32) == 10
    assert kinds["WAIT"] == kinds["WOKE"]
    names = recorded.names  # type: ignore[attr-defined]
    steps = {names.get(a & CODE_MASK, "") for a, _ in of_kind(records, "STEP")}
    assert any("echo" in name for name in steps), steps
    assert "named" in names.values()


@pytest.mark.parametrize("model", noria.MODELS)
def test_a_reactor_is_recorded_on_every_model(model: str) -> None:
    reactor = make_reactor(model)
    called: list[int] = []
    try:
        with recorded(reactor.loop) as records:
            for number in range(5):
                reactor.call_soon(called.append, number)
            reactor.call_later(0.001, called.append, 5)
            run_until(reactor, lambda: len(called) == 6)
    finally:
        reactor.close()
    kinds = Counter(kind for kind, _, _ in records)
    assert kinds["CALL"] >= 5
    assert kinds["TIMER_CALL"] >= 1
    assert kinds["TIMER"] >= 1
    assert kinds["TURN"] >= 1
    assert kinds["RUN_BEGIN"] == kinds["RUN_END"]
    names = recorded.names.values()  # type: ignore[attr-defined]
    assert any("append" in name for name in names), names


@pytest.mark.parametrize("model", MODELS)
def test_the_queue_numbers_say_who_queued_an_event(model: str) -> None:
    async def main() -> tuple[list[Record], int]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def second() -> None:
            done.set_result(None)

        def first() -> None:
            for _ in range(3):
                loop.call_soon(int)
            loop.call_soon(second)

        with recorded(loop) as records:
            await asyncio.sleep(0)
            loop.call_soon(first)
            await done
        return records, first.__code__.__hash__()

    records, _ = run(main(), model)
    names = recorded.names  # type: ignore[attr-defined]
    handlers = [r for r in records if r[0] in ("CALL", "STEP", "IO", "TIMER_CALL")]
    named = [names.get(a & CODE_MASK, "") for _, a, _ in handlers]
    at = next(i for i, name in enumerate(named) if name.endswith("first"))
    tails = [a >> 48 for _, a, _ in handlers]
    # first queued four events: the number of events queued so far grows by four until the next.
    assert (tails[at + 1] - tails[at]) % 65536 == 4


def test_exceptions_and_wakeups() -> None:
    async def main() -> list[Record]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: None)
        with recorded(loop) as records:
            loop.call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            woken = asyncio.Event()

            def wake() -> None:
                loop.call_soon_threadsafe(woken.set)

            timer = threading.Timer(0.05, wake)
            timer.start()
            await woken.wait()
            timer.join()
        return records

    for model in ("epoll", "io_uring"):
        kinds = Counter(kind for kind, _, _ in run(main(), model))
        assert kinds["EXCEPTION"] == 1
        assert kinds["WAKEUP"] >= 1


@pytest.mark.parametrize("model", ["epoll", "io_uring"])
def test_attach_and_detach_a_thousand_times_under_load(model: str) -> None:
    async def busy(stop: asyncio.Event) -> int:
        steps = 0
        while not stop.is_set():
            await asyncio.sleep(0)
            steps += 1
        return steps

    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        tasks = [asyncio.create_task(busy(stop)) for _ in range(3)]
        await asyncio.sleep(0)
        descriptors = len(os.listdir("/proc/self/fd"))

        def attach_and_detach() -> None:
            for _ in range(1000):
                recorder = Recorder(1024)
                loop.attach_recorder(recorder)
                assert loop.recorder is recorder
                loop.detach_recorder()
                recorder.close()
            loop.call_soon_threadsafe(stop.set)

        thread = threading.Thread(target=attach_and_detach)
        thread.start()
        assert all(await asyncio.gather(*tasks))
        thread.join()
        gc.collect()
        assert loop.recorder is None
        assert len(os.listdir("/proc/self/fd")) == descriptors

    run(main(), model)


def test_the_order_of_records_under_load_has_no_gap() -> None:
    async def main() -> list[Record]:
        loop = asyncio.get_running_loop()
        with recorded(loop, 1 << 17) as records:
            for _ in range(5000):
                await asyncio.sleep(0)
        return records

    records = run(main(), "epoll")
    # A record of a handler that also begins a turn has no number of the turn.
    numbers = [b - i for i, (_, b) in enumerate(of_kind(records, "TURN")) if b]
    assert len(set(numbers)) == 1
    assert len(of_kind(records, "STEP")) >= 5000


@contextmanager
def beating() -> Iterator[None]:
    """Have a thread that lets rings share readings of the clock."""
    watcher = LoopWatcher(10**12)
    thread = threading.Thread(target=watcher.wait)
    thread.start()
    try:
        yield
    finally:
        watcher.stop()
        thread.join()
        watcher.close()


def test_short_calls_share_a_reading_of_the_clock_and_a_long_one_ends_that() -> None:
    """Each call has its record; the one after a long call has a stamp of its own."""
    long_call, calls = 3000, 6000
    loop = noria.new_event_loop("epoll")
    recorder = Recorder(1 << 16)
    reader = RingReader(recorder.fd)

    def call(number: int) -> None:
        if number == long_call:
            time.sleep(0.05)
        if number < calls:
            loop.call_soon(call, number + 1)
        else:
            loop.stop()

    def stamps() -> list[int]:
        loop.call_soon(call, 1)
        loop.run_forever()
        words = struct.iter_unpack("=QQQ", reader.pull())
        found = [stamp >> 8 for stamp, _, _ in words if stamp & KIND_MASK == 8]
        assert len(found) == calls
        return found

    with beating():
        loop.attach_recorder(recorder)
        for _ in range(100):  # the thread may not have got a CPU
            found = stamps()
            shared = sum(a == b for a, b in pairwise(found))
            if shared > calls / 2 and found[long_call] != found[long_call - 1]:
                break
        else:
            pytest.fail(f"{shared} calls shared a reading")
        assert found == sorted(found)
        loop.detach_recorder()
    # Without the thread each call has a reading of its own.
    loop.attach_recorder(recorder)
    found = stamps()
    assert len(set(found)) == calls
    loop.close()
    reader.close()
    recorder.close()


def test_a_child_of_a_fork_does_not_write_into_the_ring() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with recorded(loop):
            recorder = loop.recorder
            before = recorder.head
            child = os.fork()
            if child == 0:
                os._exit(0 if loop.recorder is None else 1)
            _, status = os.waitpid(child, 0)
            assert status == 0
            assert recorder.head >= before

    run(main(), "epoll")


def test_a_closed_recorder_is_refused() -> None:
    loop = noria.new_event_loop()
    recorder = Recorder(1024)
    recorder.close()
    with pytest.raises(NoriaError, match="closed"):
        loop.attach_recorder(recorder)
    loop.close()


@pytest.mark.parametrize("model", MODELS)
def test_handshakes_and_files_are_recorded(model: str, tmp_path: Path) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(CERTIFICATE)
    client_context = ssl.create_default_context(cafile=CERTIFICATE)

    async def main() -> list[Record]:
        loop = asyncio.get_running_loop()
        with recorded(loop) as records:
            server = await asyncio.start_server(
                lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=server_context
            )
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
            )
            await reader.read()
            writer.close()
            await writer.wait_closed()
            server.close()
            async with noria.open(tmp_path / "file", "wb") as file:
                await file.write(b"x")
        return records

    records = run(main(), model)
    phases = Counter(phase for _, phase in of_kind(records, "TLS"))
    assert phases[1] == 2, phases  # both sides have done their handshake
    begun = [a for a, _ in of_kind(records, "FILE_BEGIN")]
    assert begun
    assert {a for a, _ in of_kind(records, "FILE_END")} == set(begun)


def test_the_kinds_in_python_are_those_of_the_format() -> None:
    kinds = {
        name: value
        for name, value in vars(record_kinds).items()
        if name.isupper() and isinstance(value, int)
    }
    assert kinds.pop("KIND_MASK") == KIND_MASK
    assert kinds
    assert {name: number for number, name in KINDS.items() if name in kinds} == kinds
