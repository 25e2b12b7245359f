"""The figures of a loop agree with outside ones: the kernel's, the sender's, another clock's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.running import environment

import noria
from noria._core.recorder.reader import RingReader
from noria._core.recorder.ring import Recorder
from noria.sight.observation import LoopFigures
from noria.sight.observer import Observer

MS = 1_000_000
MODELS = ["epoll", "select", "auto"]


def recorded(main: Callable[[], Coroutine[Any, Any, Any]], model: str = "auto") -> LoopFigures:
    """Run a coroutine on a loop with a recorder; return the loop's figures."""
    recorder = Recorder(2**16)
    reader = RingReader(recorder.fd)
    with asyncio.Runner(loop_factory=lambda: noria.new_event_loop(model)) as runner:
        loop: Any = runner.get_loop()
        loop.attach_recorder(recorder)
        try:
            runner.run(main())
        finally:
            loop.detach_recorder()
    observer = Observer()
    observer.feed_process({"max_block": 15 * MS})
    observer.feed_loop({"id": 0, "model": model, "header": reader.header()})
    observer.feed_ring(0, reader.pull())
    observer.feed_names(0, recorder.names_after(0))
    assert reader.dropped == 0
    reader.close()
    recorder.close()
    return observer.observe().loops[0]


def schedstat() -> tuple[int, int]:
    """Return the ns that this thread ran, and that it waited for a free CPU."""
    path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    if not path.exists():
        pytest.skip("the kernel has no schedstat")
    ran, waited, _ = map(int, path.read_text().split())
    return ran, waited


@pytest.mark.parametrize("model", MODELS)
def test_busy_time_agrees_with_schedstat(model: str) -> None:
    taken: list[int] = []
    spun = 0

    async def main() -> None:
        nonlocal spun
        await asyncio.sleep(0.001)
        before = schedstat()
        for _ in range(8):
            begin = time.perf_counter_ns()
            end = time.thread_time_ns() + 15 * MS
            while time.thread_time_ns() < end:
                pass
            spun += time.perf_counter_ns() - begin
            await asyncio.sleep(0.015)
        taken.extend(after - start for start, after in zip(before, schedstat(), strict=True))

    figures = recorded(main, model)
    ran, waited = taken
    assert ran > 110 * MS
    # A thread that waits for a CPU in a handler is busy, and also one whose virtual machine waits,
    # which schedstat does not have.
    assert ran * 0.97 - MS < figures.busy < max(ran + waited, spun) * 1.03 + 8 * MS
    assert figures.waiting > 8 * 14 * MS - waited
    assert figures.busy + figures.waiting <= figures.end - figures.begin


@pytest.mark.parametrize("model", MODELS)
def test_bytes_agree_with_the_sender_and_the_receiver(model: str) -> None:
    sent = [1, 1000, 65_536, 700_000] * 3  # in turn: each is read before the next
    received = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    def client(port: int) -> None:
        nonlocal received
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            for size in sent:
                sock.sendall(bytes(size))
                rest = size
                while rest:
                    data = sock.recv(min(rest, 1 << 20))
                    assert data
                    rest -= len(data)
                    received += len(data)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            await asyncio.to_thread(client, server.sockets[0].getsockname()[1])

    figures = recorded(main, model)
    (connection,) = figures.connections
    assert connection.bytes_in == connection.bytes_out == sum(sent) == received
    assert sum(sample.bytes_in for sample in figures.samples) == sum(sent)
    assert figures.connections_opened == 1
    assert figures.connections_open == 0
    assert (figures.executor.submitted, figures.dropped) == (0, 0)


@pytest.mark.parametrize("model", MODELS)
def test_turns_agree_with_another_clock(model: str) -> None:
    spun: list[int] = []

    def spin() -> None:
        begin = time.perf_counter_ns()
        while (now := time.perf_counter_ns()) < begin + 20 * MS:
            pass
        spun.append(now - begin)

    async def main() -> None:
        for _ in range(5):
            asyncio.get_running_loop().call_soon(spin)
            await asyncio.sleep(0.002)

    figures = recorded(main, model)
    calls = [call for call in figures.slow if call.place.function.endswith("spin")]
    assert len(calls) == len(spun) == 5
    calls.sort(key=lambda call: call.started)
    more = [call.duration - own for call, own in zip(calls, spun, strict=True)]
    assert min(more) > -20 * MS // 1000  # 0.1%: the clocks' rates
    assert min(more) < MS // 2  # the thread may have been interrupted in some of them
    blocks = [block.duration for block in figures.blocks]
    assert len(blocks) == 5
    assert all(block >= own - 20_000 for block, own in zip(blocks, spun, strict=True))
    assert min(block - own for block, own in zip(blocks, spun, strict=True)) < MS


PROTOCOL = """
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
    def connection_lost(self, error):
        done.set()

async def main():
    global done
    done = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await done.wait()
    server.close()
"""

SOCKET_METHODS = """
async def main():
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    for each in (listener, datagrams):
        each.setblocking(False)
    accepting = asyncio.create_task(loop.sock_accept(listener))
    await asyncio.sleep(0)
    print(listener.getsockname()[1], flush=True)
    connection, _ = await accepting
    buffer = bytearray(1000)
    with open(__import__("os").__file__, "rb") as file:
        while await loop.sock_recv_into(connection, buffer):
            await loop.sock_sendto(datagrams, b"x", datagrams.getsockname())
            await loop.sock_recvfrom(datagrams, 10)
            await loop.sock_sendfile(connection, file, 0, 100, fallback=False)
"""

RUN = """
import asyncio, json, socket, sys
import noria
from noria._core.recorder.reader import RingReader
from noria._core.recorder.ring import Recorder
from noria.sight.observer import Observer

exec(sys.argv[1])
recorder = Recorder(2 ** 16)
reader = RingReader(recorder.fd)
with asyncio.Runner(loop_factory=lambda: noria.new_event_loop("epoll")) as runner:
    runner.get_loop().attach_recorder(recorder)
    runner.run(main())
    runner.get_loop().detach_recorder()
observer = Observer()
observer.feed_loop({"id": 0, "header": reader.header()})
observer.feed_ring(0, reader.pull())
print(json.dumps(observer.observe().loops[0].system_calls), flush=True)
"""

# The counters of system calls, and the calls that they count.
COUNTED = {
    "waits": ("epoll_wait", "epoll_pwait", "epoll_pwait2"),
    "receives": ("recvfrom", "recvmsg"),
    "sends": ("sendto", "sendmsg", "sendfile"),
    "accepts": ("accept4",),
    "controls": ("epoll_ctl", "setsockopt"),
}


@contextlib.contextmanager
def traced_server(summary: Path, source: str) -> Iterator[subprocess.Popen[str]]:
    """Run a server under strace, which writes its counts."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    calls = ",".join(f"?{name}" for names in COUNTED.values() for name in names)
    tracing = [strace, "-f", "-c", "--seccomp-bpf", "-o", str(summary), "-e", f"trace={calls}"]
    with subprocess.Popen(
        [*tracing, sys.executable, "-c", RUN, source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("source", [PROTOCOL, SOCKET_METHODS], ids=["protocol", "sock_methods"])
def test_system_calls_agree_with_strace(tmp_path: Path, source: str) -> None:
    summary = tmp_path / "strace.txt"
    with traced_server(summary, source) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if not line:
            problem = process.stderr.read()
            if "ptrace" in problem.lower() or "not permitted" in problem:
                pytest.skip(f"strace may not trace: {problem.strip():.200}")
            pytest.fail(problem)
        with socket.create_connection(("127.0.0.1", int(line)), timeout=30) as sock:
            for _ in range(600):
                sock.sendall(b"x" * 100)
                assert sock.recv(1000)
        counted = json.loads(process.stdout.readline())
        assert process.wait(30) == 0
    traced: dict[str, int] = {}
    for row in summary.read_text().splitlines():
        columns = row.split()
        if len(columns) >= 5 and columns[3].isdecimal():
            traced[columns[-1]] = int(columns[3])
    for name in ("waits", "receives", "sends"):
        seen = sum(traced.get(call, 0) for call in COUNTED[name])
        # The loop waits some more times when it is closed, without the recorder.
        assert counted[name] == pytest.approx(seen, rel=0.01, abs=6), name
        assert seen >= 600 or (name, source) == ("waits", SOCKET_METHODS)
    everything = sum(traced.get(call, 0) for calls in COUNTED.values() for call in calls)
    assert sum(counted[name] for name in COUNTED) == pytest.approx(everything, rel=0.01)
