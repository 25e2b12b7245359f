"""The asyncio loop with processes, signals and threads, and closed with work in progress.

Each test runs on asyncio's own loop too.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, Keeper, alive, client_context, count, pair, run, until
from support.running import run as run_source


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Processes.


def test_subprocess_that_does_not_exist(model):
    async def main() -> None:
        for _ in range(count(5, 100)):
            with pytest.raises(FileNotFoundError):
                await asyncio.create_subprocess_exec("/does/not/exist")
            with pytest.raises(PermissionError):
                await asyncio.create_subprocess_exec("/etc/passwd", stdout=subprocess.PIPE)

    run(main(), model)


def test_subprocess_that_exits_at_once(model):
    async def main() -> None:
        for number in range(count(5, 200)):
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", f"exit {number % 100}", stdout=subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert (out, process.returncode) == (b"", number % 100)

    run(main(), model)


def test_subprocesses_that_exit_while_others_begin(model):
    async def main() -> None:
        async def one(number: int) -> None:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", f"echo {number}", stdout=subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert (out, process.returncode) == (b"%d\n" % number, 0)

        await asyncio.gather(*(one(number) for number in range(count(10, 200))))

    run(main(), model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # child watchers, on some Pythons
def test_subprocess_while_sigchld_is_ignored(model):
    """The kernel keeps no exit status; wait() returns all the same."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", "read line; exit 3", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate(b"go\n")
        assert out == b""
        # 255: asyncio's value for a lost status
        assert process.returncode in (3, 255)

    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        run(main(), model)
    finally:
        signal.signal(signal.SIGCHLD, former)


def test_subprocess_that_is_cancelled_while_waited_for(model):
    async def main() -> None:
        process = await asyncio.create_subprocess_exec("/bin/sleep", "100")
        waiting = asyncio.ensure_future(process.wait())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    run(main(), model)


# Name resolution and threads.


def test_getaddrinfo_cancelled(model, monkeypatch):
    """The future is cancelled; the thread continues, and its result is discarded."""
    real = socket.getaddrinfo
    begun, answer = threading.Event(), threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert answer.wait(20)
        return real(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def main() -> None:
        reports = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        for attempt in (
            loop.getaddrinfo("localhost", 80),
            loop.create_connection(Keeper, "localhost", 80),
        ):
            begun.clear()
            answer.clear()
            task = asyncio.ensure_future(attempt)
            while not begun.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            answer.set()
        # The loop's executor works again.
        assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert not reports

    run(main(), model)


def test_executor_whose_thread_outlives_the_loop(model):
    """Its result arrives after the loop was closed: it is discarded without an error."""
    begun, answer = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert answer.wait(20)

    loop = asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)
    loop.run_in_executor(None, slow)
    loop.run_until_complete(asyncio.sleep(0))
    assert begun.wait(20)
    threads = [t for t in threading.enumerate() if t is not threading.current_thread()]
    loop.close()
    answer.set()
    for thread in threads:
        if thread.name.startswith("asyncio_"):
            thread.join(20)


# Signals.


def test_keyboard_interrupt_during_a_storm_of_signals(model):
    """Another process sends as fast as it can, and SIGINT arrives meanwhile."""
    code = """
        import asyncio, os, signal, subprocess, sys
        import noria
        model = sys.argv[1]
        storm = (
            "import os, signal, sys\\n"
            "sys.stdin.readline()\\n"
            "parent = os.getppid()\\n"
            "for number in range(3000):\\n"
            "    os.kill(parent, signal.SIGUSR1)\\n"
            "    if number == 2000: os.kill(parent, signal.SIGINT)\\n"
        )
        seen = 0
        def usr1():
            global seen
            seen += 1
        async def main():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, usr1)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", storm, stdin=subprocess.PIPE
            )
            try:
                process.stdin.write(b"begin\\n")
                while True:
                    await asyncio.sleep(0)
            finally:
                await process.wait()
                loop.call_soon(lambda: None)
                await asyncio.sleep(0.01)
        try:
            if model == "asyncio":
                asyncio.run(main())
            else:
                noria.run(main(), model=model)
        except KeyboardInterrupt:
            assert seen
            print("interrupted")
        """
    assert run_source(code, model) == "interrupted\n"


# Closed with work in progress.


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # unclosed transports, as asyncio says
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("model", MODELS)  # asyncio's own keeps the TLS client's task
def test_loop_closed_with_work_in_flight_leaves_nothing(model, monkeypatch):
    """Unsent data, readers, a listener, a connect, handshakes: nothing leaks."""
    endings = ("Transport", "Protocol", "Connection", "Task", "Descriptor", "Acceptor")
    before = alive(*endings)
    faults: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: faults.append(what.exc_value))
    loop: Any = asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)
    loop.set_exception_handler(lambda loop, context: None)

    async def start() -> list[Any]:
        client, keeper, server = await pair()
        keeper.transport.pause_reading()
        client.transport.write(b"x" * 10_000_000)
        secure = await pair(secure=True)
        secure[1].transport.pause_reading()
        secure[0].transport.write(b"x" * 10_000_000)

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
        cancelled = asyncio.ensure_future(asyncio.sleep(100))
        loop.call_later(100, print)

        # A listener whose backlog is full: a connect to it does not end.
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        connecting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            connecting.append(
                (sock, asyncio.ensure_future(loop.sock_connect(sock, full.getsockname())))
            )
        # A server that never replies: the handshake does not end, on either side.
        mute = socket.create_server(("127.0.0.1", 0))
        shaking = asyncio.ensure_future(
            loop.create_connection(
                Keeper, *mute.getsockname(), ssl=client_context(), server_hostname="localhost"
            )
        )
        silent = socket.create_connection(secure[2].sockets[0].getsockname())
        datagrams = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await asyncio.sleep(0)
        return [
            client,
            keeper,
            server,
            *secure,
            ours,
            theirs,
            receiving,
            full,
            connecting,
            mute,
            shaking,
            silent,
            datagrams,
        ]

    kept = loop.run_until_complete(start())
    # These are Python sockets, which the test closes.
    for thing in kept:
        if isinstance(thing, (socket.socket, asyncio.AbstractServer)):
            thing.close()
        if isinstance(thing, list):
            for sock, _ in thing:
                sock.close()
    loop.close()
    del thing, sock, _
    kept.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
        assert not alive(*endings) - before
    assert not faults


def test_a_write_after_the_loop_is_closed_keeps_no_descriptor(model):
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        mine, peer = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(Keeper, sock=mine)
        transport.write(b"x" * 5_000_000)
        kept.append((transport, peer))

    before = descriptors()
    kept: list[Any] = []
    run(main(), model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transport, peer = kept.pop()
        transport.write(b"never sent")
        del transport
        peer.close()
        assert descriptors() == before


def test_pause_writing_that_raises_is_reported_and_the_connection_stays_open(model):
    class Raises(Keeper):
        def pause_writing(self) -> None:
            raise ValueError("pause")

        def resume_writing(self) -> None:
            raise ValueError("resume")

    async def main() -> None:
        reports: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reports.append(context))
        raises = Raises()
        server = await loop.create_server(lambda: raises, "127.0.0.1", 0)
        _, client = await loop.create_connection(Keeper, *server.sockets[0].getsockname())
        await raises.made
        raises.transport.write(b"x" * 5_000_000)
        await until(lambda: len(client.data) == 5_000_000)
        await until(lambda: len(reports) == 2)
        raises.transport.close()
        assert await raises.lost is None
        assert [context["message"] for context in reports] == [
            "protocol.pause_writing() failed",
            "protocol.resume_writing() failed",
        ]
        server.close()

    run(main(), model)


def test_an_unclosed_transport_whose_warning_is_an_exception_is_closed(model, monkeypatch):
    class Pausing(Keeper):
        def connection_made(self, transport: Any) -> None:
            transport.pause_reading()

    async def main() -> None:
        faults: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda fault: faults.append(fault.exc_type))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Pausing, "127.0.0.1", 0)
        peer = socket.create_connection(server.sockets[0].getsockname())
        peer.setblocking(False)
        # Nothing refers to the transport once it does not read.
        await asyncio.sleep(0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gc.collect()
        assert set(faults) == {ResourceWarning}
        # The freed connection is in no table.
        if sys.version_info >= (3, 13):
            server.close_clients()
        for fd in range(3, 64):
            loop.remove_reader(fd)
        assert await asyncio.wait_for(loop.sock_recv(peer, 1), 10) == b""
        peer.close()
        server.close()
        if model != ORACLE:
            # asyncio's does not count the end of such a connection.
            await asyncio.wait_for(server.wait_closed(), 10)

    run(main(), model)


if sys.version_info < (3, 12):
    # Its child watcher warns of a lost status; later versions only log it.
    pytestmark = pytest.mark.filterwarnings("ignore:.*exit status already read")
