"""The load generator: its counts, the errors it detects, and that it leaves nothing open."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from noria.compare.loadgen import command as loadgen
from noria.compare.loadgen import load

HOST = "127.0.0.1"


class Echo(asyncio.Protocol):
    transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Corrupting(Echo):
    """Changes one byte, after a while."""

    passed = 0

    def data_received(self, data: bytes) -> None:
        self.passed += len(data)
        if self.passed > 2_000:  # early, so that a busy machine gets this far within the time limit
            data = bytes([data[0] ^ 1]) + data[1:]
        self.transport.write(data)


class Crossing(Echo):
    """Sends each connection the data of another one."""

    others: ClassVar[list[Any]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.others.append(transport)

    def data_received(self, data: bytes) -> None:
        if len(self.others) > 1:
            (self.others[0] if self.others[1] is self.transport else self.others[1]).write(data)


class Losing(Echo):
    """Drops the third message; messages have 100 bytes."""

    passed = 0

    def data_received(self, data: bytes) -> None:
        keep = data
        if self.passed < 300 <= self.passed + len(data):
            at = 200 - self.passed
            keep = data[: max(at, 0)] + data[max(at, 0) + 100 :]
        self.passed += len(data)
        self.transport.write(keep)


class Chatty(Echo):
    """Sends more than it receives."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data + b"!")


class Leaving(Echo):
    """Closes at its fifth message."""

    messages = 0

    def data_received(self, data: bytes) -> None:
        self.messages += 1
        if self.messages == 5:
            self.transport.close()
        else:
            self.transport.write(data)


@contextmanager
def served(protocol: Callable[[], Echo], unix: Path | None = None) -> Iterator[int]:
    """Run an asyncio server in a thread; yields its port (0 for a Unix socket)."""
    ready = threading.Event()
    found: dict[str, Any] = {}
    made: list[Echo] = []

    def one() -> Echo:
        made.append(protocol())
        return made[-1]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        found["loop"], found["stop"] = loop, asyncio.Event()
        if unix:
            server: Any = await loop.create_unix_server(one, str(unix))
        else:
            server = await loop.create_server(one, HOST, 0, backlog=1024)
            found["port"] = server.sockets[0].getsockname()[1]
        ready.set()
        await found["stop"].wait()
        # asyncio's server loses transports it is about to create if it is closed while accepting.
        await asyncio.sleep(0.01)
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
        server.close()
        for each in made:
            each.transport.abort()
        await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(5)
    try:
        yield found.get("port", 0)
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(5)


@contextmanager
def one_at_a_time() -> Iterator[int]:
    """Run a blocking server that accepts the next connection after the last has closed."""
    listener = socket.create_server((HOST, 0), backlog=128)

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while data := connection.recv(65536):
                        connection.sendall(data)
                except OSError:
                    pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def go(port: int, **options: Any) -> load.LoadResult:
    given: dict[str, Any] = {"connections": 4, "size": 100, "seconds": 0.2, "warmup": 0.02}
    return load.run(HOST, port, **(given | options))


@pytest.mark.parametrize(
    ("connections", "size", "depth"),
    [(1, 1, 1), (20, 1024, 1), (4, 100_000, 1), (5, 128, 16), (2, 64, 100), (2, 400_000, 3)],
)
def test_counts_the_echoes(connections: int, size: int, depth: int) -> None:
    with served(Echo) as port:
        result = go(port, connections=connections, size=size, depth=depth)
    assert result.messages > 10
    assert (result.served, result.connected, result.connections) == (connections,) * 3
    assert result.seconds == pytest.approx(0.2, abs=0.1)
    assert result.messages_per_second == pytest.approx(result.messages / result.seconds)
    assert sum(count for _, _, count in result.histogram) == result.messages
    assert result.p50_us is not None
    assert result.max_us is not None
    assert 0 < result.p50_us <= (result.p99_us or 0) <= (result.p999_us or 0) <= result.max_us
    # Little's law: messages in flight = rate × mean latency.
    mean = sum((low + high) / 2 * count for low, high, count in result.histogram) / result.messages
    in_flight = mean * 1e-6 * result.messages_per_second
    assert in_flight < connections * depth * 1.2


def test_server_counts_the_same() -> None:
    """The server's echoes are those counted plus those outside the measured time."""
    counted = 0

    class Counting(Echo):
        def data_received(self, data: bytes) -> None:
            nonlocal counted
            counted += len(data)
            super().data_received(data)

    with served(Counting) as port:
        result = go(port, connections=3, size=100, warmup=0)
    # One echo each to check the connections, and at most one each in flight at the end.
    assert result.messages <= counted / 100 <= result.messages + 6


def test_buckets_are_narrow_and_in_order() -> None:
    with served(Echo) as port:
        histogram = go(port).histogram
    for low, high, _ in histogram:
        assert low < high
        assert high - low <= max(0.001001, low * 0.0079)
    for (_, high, _), (low, _, _) in pairwise(histogram):
        assert high <= low


@pytest.mark.parametrize(
    ("protocol", "depth", "says"),
    [
        (Corrupting, 1, r"the echo of message .* is wrong from byte"),
        (Losing, 8, r"the echo of message .* is wrong from byte"),
        (Chatty, 1, "sent more than it received"),
    ],
)
def test_notices_a_wrong_echo(protocol: type[Echo], depth: int, says: str) -> None:
    with served(protocol) as port, pytest.raises(load.WrongEcho, match=says):
        go(port, connections=2, depth=depth)


def test_notices_crossed_echoes() -> None:
    Crossing.others.clear()
    with (
        served(Crossing) as port,
        pytest.raises(load.WrongEcho, match=r"the echo of message .* is wrong from byte"),
    ):
        go(port, connections=2)


def test_without_verify_only_lengths_count() -> None:
    with served(Corrupting) as port:
        assert go(port, verify=False).messages > 10


def test_server_that_leaves() -> None:
    with served(Leaving) as port, pytest.raises(ConnectionAbortedError, match="closed") as caught:
        go(port)
    assert caught.value.errno == errno.ECONNABORTED


def test_refused() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError, match=f"{HOST}:{port}") as caught:
        go(port)
    assert caught.value.errno == errno.ECONNREFUSED


def test_localhost_tries_each_address() -> None:
    with served(Echo) as port:  # on 127.0.0.1, while localhost may be ::1 first
        assert load.run("localhost", port, connections=1, size=9, seconds=0.05).served == 1


def test_ipv6() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")

    def work() -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    thread = threading.Thread(target=work)
    thread.start()
    with listener:
        port = listener.getsockname()[1]
        assert load.run("::1", port, connections=1, size=9, seconds=0.05).messages > 1
        thread.join(5)


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "echo"
    with served(Echo, unix=path):
        assert go(0, unix=path, connections=300).served == 300
    with pytest.raises(FileNotFoundError):
        go(0, unix=tmp_path / "none")
    with pytest.raises(OSError, match="too long") as caught:
        go(0, unix="x" * 108)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_blocking_server_serves_one() -> None:
    with one_at_a_time() as port:
        began = time.monotonic()
        result = go(port, connections=30)
        assert time.monotonic() - began < 2
    assert result.messages > 10
    assert (result.served, result.connected) == (1, 30)


def test_server_that_never_accepts() -> None:
    """Nothing is echoed and nothing hangs, not even a connect with a full backlog."""
    with socket.create_server((HOST, 0), backlog=64) as listener:
        result = go(listener.getsockname()[1], connections=20)
    assert (result.messages, result.served, result.p50_us, result.max_us) == (0, 0, None, None)


def test_full_backlog_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(2)
        result = go(0, unix=path, connections=10)
    assert 0 < result.connected < 10
    assert result.served == 0


def test_idle_connections() -> None:
    with served(Echo) as port:
        result = go(port, idle=50)
        assert result.idle == 50
        before = descriptors()
        with load.open_idle(HOST, port, 300) as idle:
            assert len(idle) == 300
            assert len(descriptors()) >= len(before) + 300
            assert idle.ended() == 0
            idle.close()
            idle.close()
            assert len(idle) == 0
        with load.open_idle(HOST, port, 0) as idle:
            assert len(idle) == 0


def test_idle_connections_that_the_server_ends() -> None:
    with (
        socket.create_server((HOST, 0)) as listener,
        load.open_idle(HOST, listener.getsockname()[1], 5) as idle,
    ):
        for _ in range(3):
            listener.accept()[0].close()
        latest = time.monotonic() + 2
        while idle.ended() < 3 and time.monotonic() < latest:
            time.sleep(0.01)
        assert idle.ended() == 3


def test_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:
        closed = listener.getsockname()[1]

    def failing(port: int, kind: type[BaseException], **options: Any) -> None:
        with pytest.raises(kind):
            go(port, **options)

    before = descriptors()
    with served(Echo) as port:
        go(port, idle=10)
        failing(port, RuntimeError, at_start=raise_runtime_error)
    failing(closed, ConnectionRefusedError)
    failing(closed, ConnectionRefusedError, idle=3)
    failing(0, FileNotFoundError, unix=tmp_path / "none")
    with served(Leaving) as port:
        failing(port, ConnectionAbortedError)
    with served(Corrupting) as port:
        failing(port, load.WrongEcho)
    assert descriptors() == before


def raise_runtime_error() -> None:
    raise RuntimeError


def test_too_few_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with served(Echo) as port:
            with pytest.raises(OSError, match="ulimit -n") as caught:
                go(port, connections=190)
            with pytest.raises(OSError, match="limit of 200"):
                load.open_idle(HOST, port, 500)
            with pytest.raises(OSError, match="limit of 200"):
                go(port, connections=50, idle=140)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert descriptors() == before


@pytest.mark.parametrize(
    "wrong",
    [{"connections": 0}, {"size": 0}, {"depth": 0}, {"seconds": 0}, {"warmup": -1}, {"idle": -1}],
)
def test_wrong_use(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        go(1, **wrong)


def test_releases_the_gil_and_ends_at_a_signal() -> None:
    class Rung(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        # The server runs in a thread, so it makes progress only if the GIL is released.
        with served(Echo) as port:
            began = time.monotonic()
            with pytest.raises(Rung):
                go(port, seconds=20)
            assert time.monotonic() - began < 1
    finally:
        signal.signal(signal.SIGALRM, before)


def test_hooks_are_around_the_measured_time() -> None:
    times: list[float] = []
    with served(Echo) as port:
        result = go(
            port,
            at_start=lambda: times.append(time.monotonic()),
            at_end=lambda: times.append(time.monotonic()),
        )
    start, end = times
    assert result.seconds <= end - start < result.seconds + 0.1


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    with served(Echo) as port:
        common = [HOST, str(port), "--connections", "3", "--size", "64", "--seconds", "0.1"]
        alone = ["--cpu", str(min(os.sched_getaffinity(0))), "--pid", str(os.getpid())]
        status = subprocess.run(
            [sys.executable, "-m", "noria.compare.loadgen", *common, "--json", *alone],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert status.returncode == 0, status.stderr
        found = json.loads(status.stdout)
        assert found["served"] == 3
        assert found["size"] == 64
        used = found["user_seconds"] + found["kernel_seconds"]
        assert 0 < used < found["seconds"] * 2
        assert used == pytest.approx(
            (found["user_us"] + found["kernel_us"]) * found["messages"] / 1e6
        )
        assert loadgen.main(common) == 0
    assert "3 of 3 connections served" in capsys.readouterr().out


def test_command_failures(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    assert loadgen.main([HOST, str(port), "--seconds", "0.1", "--json"]) == 1
    out, errors = capsys.readouterr()
    assert json.loads(out)["errno"] == errno.ECONNREFUSED
    assert errors.startswith("loadgen: Connection refused")
    assert "Traceback" not in errors
    for wrong in ([], [HOST, "0"], [HOST, "99999"], [HOST, "1", "--connections", "0"]):
        with pytest.raises(SystemExit) as caught:
            loadgen.main(wrong)
        assert caught.value.code == 2
