"""noria.serve in a subprocess: signals, workers, addresses, and errors."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.servers.echo import Echo
from support.running import finish, line, start
from support.running import run as run_source

LIMIT = 10.0

SERVER = """
import ast, asyncio, logging, os, sys
import noria
from noria.servers.echo import Echo

logging.basicConfig(format="%(message)s")

class Mine(Echo):
    def data_received(self, data):
        if data == b"pid":
            data = b"%d" % os.getpid()
        elif data == b"die":
            os._exit(3)
        super().data_received(data)

def ready(info):
    print(info.addresses[0], flush=True)
    print(info.model, flush=True)
    print(info.pid == os.getpid(), flush=True)

try:
    summary = noria.serve(Mine, ready=ready, **ast.literal_eval(sys.argv[1]))
except (OSError, noria.NoriaError, ValueError) as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    sys.exit(1)
print(summary.connections, summary.messages, summary.bytes_in, summary.bytes_out, summary.workers)
"""


class Server:
    """A server subprocess that listens on `address`."""

    def __init__(self, **arguments: Any):
        self.process = start(SERVER, repr(arguments))
        self.text = line(self.process)
        if re.match(r"^\w+: ", self.text):
            finish(self.process)
            return
        self.model = line(self.process)
        assert line(self.process) == "True"
        host, _, port = self.text.rpartition(":")
        self.address: Any = (host.strip("[]"), int(port)) if port.isdigit() else self.text

    def connect(self) -> socket.socket:
        if isinstance(self.address, tuple):
            return socket.create_connection(self.address, LIMIT)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT)
        sock.connect(self.address)
        return sock

    def ask(self, data: bytes = b"hello") -> bytes:
        with self.connect() as sock:
            sock.sendall(data)
            return sock.recv(1000)

    def end(self, number: int = signal.SIGTERM) -> list[str]:
        """Send the signal and return the fields of the summary."""
        self.process.send_signal(number)
        status, out, self.errors = finish(self.process)
        assert status == 0, self.errors
        return out.split()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """A list of servers; the test's end kills them and their workers."""
    made: list[Server] = []
    yield made
    for server in made:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.communicate()


MODELS = [name for name in noria.MODELS if noria.models.availability(name)[0]]


@pytest.mark.parametrize("model", MODELS)
def test_serves_and_sums_up(servers: list[Server], model: str) -> None:
    server = Server(model=model)
    servers.append(server)
    assert server.model == model
    assert server.address[0] == "127.0.0.1"
    for _ in range(3):
        assert server.ask(b"hello") == b"hello"
    # 3 connections, 3 messages, 15 bytes in, 15 bytes out, 1 worker
    assert server.end() == ["3", "3", "15", "15", "1"]
    assert server.errors == ""


def test_auto_is_a_model(servers: list[Server]) -> None:
    server = Server()
    servers.append(server)
    assert server.model == noria.models.choose()[0]
    server.end()


@pytest.mark.parametrize("model", MODELS)
def test_sigterm_lets_connections_finish(servers: list[Server], model: str) -> None:
    server = Server(model=model)
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + LIMIT
        while True:  # it accepts no new connections
            try:
                server.connect().close()
            except OSError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for turn in range(3):
            sock.sendall(b"after %d" % turn)
            assert sock.recv(100) == b"after %d" % turn
        assert server.process.poll() is None
    status, out, err = finish(server.process)
    assert status == 0, err
    assert out.split()[1] == "4"
    assert "did not finish" not in err


@pytest.mark.parametrize("model", MODELS)
def test_connections_are_closed_when_the_grace_period_ends(
    servers: list[Server], model: str
) -> None:
    server = Server(model=model, grace=0.2)
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        server.end()
        assert sock.recv(1) == b""
    assert "1 connections did not finish in 0.2 s" in server.errors


@pytest.mark.parametrize("model", MODELS)
def test_sigint_ends_at_once_with_a_summary(servers: list[Server], model: str) -> None:
    server = Server(model=model)
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert server.end(signal.SIGINT) == ["1", "1", "1", "1", "1"]
        assert sock.recv(1) == b""
    assert server.errors == ""


def test_a_second_sigterm_ends_at_once(servers: list[Server]) -> None:
    server = Server(model="epoll")
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert server.process.poll() is None
        server.end()


# Workers.


def pids(server: Server, count: int) -> set[int]:
    """Return the process ids of the workers, once `count` of them have replied."""
    found: set[int] = set()
    deadline = time.monotonic() + LIMIT
    while len(found) < count:
        try:
            answer = server.ask(b"pid")
        except ConnectionError:
            answer = b""
        if answer:
            found.add(int(answer))
        assert time.monotonic() < deadline, found
    return found


@pytest.mark.parametrize("model", [name for name in MODELS if name in ("epoll", "io_uring")])
def test_workers_share_the_port(servers: list[Server], model: str) -> None:
    server = Server(model=model, workers=2)
    servers.append(server)
    found = pids(server, 2)
    assert len(found) == 2
    assert server.process.pid not in found
    words = server.end()
    assert int(words[0]) >= 2
    assert words[4] == "2"
    for pid in found:
        assert not Path(f"/proc/{pid}").exists(), "a worker is left"


@pytest.mark.parametrize("how", ["SIGKILL", "status 3"])
def test_a_dead_worker_is_replaced(servers: list[Server], how: str) -> None:
    server = Server(model="epoll", workers=2)
    servers.append(server)
    before = pids(server, 2)
    if how == "SIGKILL":
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
    else:
        with server.connect() as sock:
            sock.sendall(b"pid")
            victim = int(sock.recv(100))
            sock.sendall(b"die")
            assert sock.recv(100) == b""
    deadline = time.monotonic() + LIMIT
    after: set[int] = set()
    while not after - before:
        after |= pids(server, 1)
        assert time.monotonic() < deadline
    server.end()
    assert f"worker {victim} ended ({how}): starting another" in server.errors
    assert server.errors.count("starting another") == 1


def test_sigterm_with_workers_lets_connections_finish(servers: list[Server]) -> None:
    server = Server(model="epoll", workers=2)
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        sock.sendall(b"after")
        assert sock.recv(100) == b"after"
        assert server.process.poll() is None
    status, out, err = finish(server.process)
    assert status == 0, err
    assert out.split() == ["1", "2", "11", "11", "2"]


def test_sigint_with_workers(servers: list[Server]) -> None:
    server = Server(model="epoll", workers=2)
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert server.end(signal.SIGINT)[0] == "1"
        assert sock.recv(1) == b""


def test_workers_die_with_their_parent(servers: list[Server]) -> None:
    server = Server(model="epoll", workers=2)
    servers.append(server)
    found = pids(server, 2)
    server.process.kill()
    finish(server.process)
    deadline = time.monotonic() + LIMIT
    while any(alive(pid) for pid in found):
        assert time.monotonic() < deadline, "workers have outlived their parent"
        time.sleep(0.02)


def test_a_worker_whose_parent_is_dead_has_no_traceback(servers: list[Server]) -> None:
    server = Server(model="epoll", workers=2)
    servers.append(server)
    server.process.kill()
    # finish() returns when the last worker has closed its streams.
    _, _, errors = finish(server.process)
    assert "Traceback" not in errors


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("group", [False, True])
def test_sighup_lets_connections_finish(servers: list[Server], workers: int, group: bool) -> None:
    """A terminal sends SIGHUP to all processes, kill(1) only to the parent."""
    server = Server(model="epoll", workers=workers)
    servers.append(server)
    found = pids(server, workers)
    with server.connect() as sock:
        sock.sendall(b"before")
        assert sock.recv(100) == b"before"
        # The parent first: it restarts a worker that ends before it knows of the shutdown.
        for pid in (server.process.pid, *(sorted(found) if group else ())):
            # The parent forwards the signal: a worker may have ended already.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)
        wait_until_refused(server)
        os.kill(server.process.pid, signal.SIGHUP)  # a second SIGHUP does not hasten the shutdown
        sock.sendall(b"after")
        assert sock.recv(100) == b"after"
        assert server.process.poll() is None
    status, out, errors = finish(server.process)
    assert (status, errors) == (0, "")
    assert out.split()[-1] == str(workers)
    assert not any(alive(pid) for pid in found)


def wait_until_refused(server: Server) -> None:
    """Wait until no process accepts connections."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # the listening socket was closed during the handshake: try again
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_after_sighup_stops_at_once(servers: list[Server], workers: int) -> None:
    server = Server(model="epoll", workers=workers)
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        server.process.send_signal(signal.SIGHUP)
        wait_until_refused(server)
        server.end(signal.SIGTERM)
        assert sock.recv(1) == b""


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_that_is_ignored_stays_ignored(servers: list[Server], workers: int) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # children inherit it, as from nohup(1)
    try:
        server = Server(model="epoll", workers=workers)
    finally:
        signal.signal(signal.SIGHUP, former)
    servers.append(server)
    for pid in {server.process.pid, *pids(server, workers)}:
        os.kill(pid, signal.SIGHUP)
    assert server.ask() == b"hello"
    server.end()


def test_a_programs_own_handler_of_sighup_is_left_alone() -> None:
    text = run_source(
        """
        import os, signal, threading
        import noria
        from noria.servers.echo import Echo

        def reload(number, frame):
            print("reloaded", flush=True)
            stops[0]()

        stops = []
        signal.signal(signal.SIGHUP, reload)

        def ready(info):
            stops.append(info.stop)
            os.kill(os.getpid(), signal.SIGHUP)

        noria.serve(Echo, model="epoll", ready=ready)
        assert signal.getsignal(signal.SIGHUP) is reload
        """
    )
    assert text == "reloaded\n"


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_on_a_unix_socket(servers: list[Server], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = Server(model="epoll", workers=2, unix=str(path))
    servers.append(server)
    assert server.ask() == b"hello"
    server.end()
    assert not path.exists()


def test_workers_that_die_at_their_start() -> None:
    """The supervisor gives up with an error message."""
    process = start(
        """
        import os, sys
        import noria
        from noria.servers import supervisor
        from noria.servers.echo import Echo
        supervisor.MAX_FAILED_STARTS = 4
        supervisor.run_server = lambda *arguments: os._exit(7)
        try:
            noria.serve(Echo, workers=2)
        except noria.NoriaError as error:
            print(error)
            sys.exit(5)
        """
    )
    status, out, err = finish(process)
    assert status == 5, err
    assert "4 workers ended within 1 s of their start" in out
    assert "(status 7)" in err


def test_workers_need_the_main_thread() -> None:
    problems: list[BaseException] = []

    def elsewhere() -> None:
        try:
            noria.serve(Echo, workers=2)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert isinstance(problems[0], RuntimeError)
    assert "main thread" in str(problems[0])


# Addresses.


def test_ipv6(servers: list[Server]) -> None:
    server = Server(host="::1")
    servers.append(server)
    assert server.text.startswith("[::1]:")
    assert server.ask() == b"hello"
    server.end()


def test_a_name_of_more_than_one_address(servers: list[Server]) -> None:
    server = Server(host="localhost")
    servers.append(server)
    assert server.ask() == b"hello"
    server.end()


def test_unix_socket(servers: list[Server], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = Server(unix=str(path))
    servers.append(server)
    assert server.text == str(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert server.ask() == b"hello"
    server.end()
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(servers: list[Server], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert path.exists()
    server = Server(unix=str(path))
    servers.append(server)
    assert server.ask() == b"hello"
    server.end()
    assert not path.exists()


def test_a_socket_in_use_is_refused(servers: list[Server], tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = Server(unix=path)
    servers.append(server)
    assert Server(unix=path).text == (
        f"OSError: [Errno 98] cannot listen on {path}: Address already in use"
    )
    assert server.ask() == b"hello", "the first server still runs"
    server.end()


def test_a_file_that_is_no_socket_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    assert f"cannot listen on {path}: Address already in use" in Server(unix=str(path)).text
    assert path.read_text() == "precious"
    assert "No such file" in Server(unix=str(tmp_path / "no" / "socket")).text
    assert "too long" in Server(unix="/tmp/" + "x" * 200).text
    assert "its path is empty" in Server(unix="").text


def test_a_socket_that_another_put_in_its_place_is_left(
    servers: list[Server], tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    server = Server(unix=str(path))
    servers.append(server)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        server.end()
        assert path.exists()


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        text = f"cannot listen on 127.0.0.1:{port}: Address already in use"
        assert Server(port=port).text == f"OSError: [Errno 98] {text}"
        assert text in Server(port=port, workers=2).text
        with pytest.raises(OSError, match=f"127.0.0.1:{port}") as caught:
            noria.serve(Echo, port=port)
    assert caught.value.errno == 98


def test_what_serve_refuses() -> None:
    for arguments, error, text in (
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"grace": -1}, ValueError, "grace must be 0 or more"),
        ({"port": 70000}, OSError, "ports are 0 to 65535"),
        ({"host": "203.0.113.1"}, OSError, "203.0.113.1"),
        ({"model": "epol"}, noria.UnknownModel, "did you mean 'epoll'"),
        ({"model": "blocking", "host": None}, noria.ModelLimit, "one accept only"),
    ):
        with pytest.raises(error, match=text):
            noria.serve(Echo, **arguments)  # type: ignore[arg-type]


# In a thread; the callbacks.


def test_in_another_thread_it_ends_by_stop() -> None:
    calls: list[tuple[str, str, dict[str, Any]]] = []
    ready: list[noria.ServerInfo] = []
    done = threading.Event()
    summaries: list[noria.Summary] = []

    def serve() -> None:
        def note(info: noria.ServerInfo) -> None:
            ready.append(info)
            done.set()

        summaries.append(
            noria.serve(
                Echo,
                model="epoll",
                ready=note,
                on_connection=lambda event, peer, what: calls.append((event, peer, what)),
            )
        )

    thread = threading.Thread(target=serve)
    thread.start()
    assert done.wait(LIMIT)
    host, port = ready[0].addresses[0].split(":")
    with socket.create_connection((host, int(port)), LIMIT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(10) == b"hello"
        peer = "{}:{}".format(*sock.getsockname())
    deadline = time.monotonic() + LIMIT
    while len(calls) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ready[0].stop()
    thread.join()
    assert [entry[:2] for entry in calls] == [("open", peer), ("close", peer)]
    assert calls[1][2]["error"] is None
    assert calls[1][2]["seconds"] >= 0
    assert summaries[0].connections == 1
    assert summaries[0].bytes_out == 5
    assert summaries[0].busy > 0


@pytest.mark.parametrize("target", ["os.getpid()", "pid"], ids=["of the parent", "of the worker"])
def test_a_signal_in_the_middle_of_a_fork(target: str) -> None:
    """The signal reaches each worker, and no worker runs its parent's handler."""
    source = f"""
import os, signal
import noria
from noria.servers.echo import Echo

fork = os.fork
def forked():
    pid = fork()
    if pid:
        os.kill({target}, signal.SIGTERM)
        if "{target}" == "pid":
            os.kill(os.getpid(), signal.SIGTERM)
    return pid
os.fork = forked
print(noria.serve(Echo, "127.0.0.1", 0, model="epoll", workers=2).workers)
"""
    status, out, err = finish(start(source))
    assert status == 0, err
    assert out == "2\n"


def test_no_worker_is_started_after_a_signal() -> None:
    """A client of the first worker may stop the server before the second worker is started."""
    code = """
import os, signal
from noria.servers.config import Summary
from noria.servers.supervisor import Supervisor

supervisor = Supervisor(lambda on_ready: Summary(), Summary())
try:
    os.kill(os.getpid(), signal.SIGTERM)
    supervisor.start_worker()
    print(len(supervisor.workers))
finally:
    supervisor.close()
"""
    assert run_source(code) == "0\n"


def test_a_signal_right_before_the_wait_for_workers() -> None:
    """It came after the workers were looked at: the wait that follows must end at once."""
    code = """
import os, signal
import noria
from noria.servers.echo import Echo

waitpid = os.waitpid
def late(*arguments):
    found = waitpid(*arguments)
    if not found[0] and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGTERM)
    return found
sent = []
os.waitpid = late
print(noria.serve(Echo, "127.0.0.1", 0, model="epoll", workers=2).workers)
"""
    assert run_source(code) == "2\n"
