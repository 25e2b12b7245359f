"""``noria serve``: its output, its errors, and the user's own protocols."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path

import pytest

pytest.importorskip("click")

from noria.cli.main import run
from support.running import environment

COMMAND = [sys.executable, "-m", "noria", "serve"]

MINE = """
import asyncio

class Upper(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(data.upper())

class NeedsArgument(Upper):
    def __init__(self, thing): pass

class Datagrams(asyncio.DatagramProtocol): pass

def make(): return Upper()
def number(): return 3
def boom(): raise RuntimeError("boom")
async def later(): return Upper()
VALUE = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A directory with modules of the user's own, as the current one."""
    (tmp_path / "cli_mine.py").write_text(MINE)
    (tmp_path / "cli_broken.py").write_text("import cli_nothing_of_this_name\n")
    (tmp_path / "cli_raises.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("cli_")]:
        del sys.modules[name]


class Server:
    """A ``noria serve`` in a process of its own."""

    def __init__(self, *arguments, cwd=None):
        path = os.pathsep.join(os.path.abspath(part) for part in sys.path if part)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.first = self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def talk(self, address, text):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with socket.socket(family) as sock:
            sock.connect(address)
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(4096), b""))

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        out, err = self.process.communicate()
        return self.process.returncode, out, err


def address(line):
    host, _, port = line.split()[2].rstrip(",").rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("model", ["blocking", "epoll", "auto"])
def test_it_prints_where_it_listens_and_the_totals(model):
    with Server("echo", "--port", "0", "--model", model, "-v") as server:
        assert server.first.startswith("listening on 127.0.0.1:")
        assert ("(auto: " in server.first) is (model == "auto")
        assert server.talk(address(server.first), b"hello\n") == b"hello\n"
        status, out, err = server.end()
    assert (status, err) == (0, "")
    assert "  open   127.0.0.1:" in out
    assert "  close  127.0.0.1:" in out
    assert "served 1 connection, 1 message\n  received  6 bytes\n  sent      6 bytes\n" in out


def test_json_lines():
    with Server("echo", "--port", "0", "--json", "-v") as server:
        first = json.loads(server.first)
        assert first["pid"] == server.process.pid
        host, _, port = first["listening"][0].rpartition(":")
        server.talk((host, int(port)), b"abc")
        status, out, _ = server.end(signal.SIGTERM)
    assert status == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["open", "close", "summary"]
    assert events[2]["connections"] == 1
    assert events[2]["bytes_in"] == events[2]["bytes_out"] == 3


def test_a_protocol_from_the_current_directory_on_a_unix_socket(mine):
    with Server("cli_mine:Upper", "--unix", "s.sock", cwd=mine) as server:
        assert server.first.startswith("listening on s.sock, model ")
        assert server.talk(str(mine / "s.sock"), b"hello") == b"HELLO"
        assert server.end()[0] == 0


def test_a_function_that_makes_protocols(mine):
    with Server("cli_mine:make", "--port", "0", cwd=mine) as server:
        assert server.talk(address(server.first), b"hello") == b"HELLO"
        assert server.end()[0] == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("cli_mine", "neither 'files', 'echo' nor MODULE:PROTOCOL"),
        ("cli_nomodule:X", "there is no module 'cli_nomodule' in"),
        ("cli_mine.py:Upper", "name the module, not its file: cli_mine"),
        ("a/b:X", "is not a module name"),
        ("cli_mine:Uper", "Did you mean Upper?"),
        ("cli_mine:Zzzzz", "Its protocols: Upper, NeedsArgument"),
        ("cli_mine:VALUE", "is not a protocol class: it is of type int"),
        ("cli_mine:Datagrams", "not a stream protocol"),
        ("cli_mine:NeedsArgument", "called without arguments"),
        ("cli_mine:number", "did not return a stream protocol but an object of type int"),
        ("cli_mine:later", "is a coroutine function"),
    ],
)
def test_a_wrong_target_is_wrong_use(mine, target, said, capsys):
    assert run(["serve", target, "--port", "0"]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("cli_broken:X", "cli_broken.py"),
        ("cli_raises:X", "cli_raises.py"),
        ("cli_mine:boom", "cli_mine.py"),
    ],
)
def test_an_error_in_the_users_module_shows_their_traceback_alone(mine, target, file, capsys):
    assert run(["serve", target, "--port", "0"]) == 1
    files = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  File")]
    assert len(files) == 1
    assert file in files[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "epol"],
        ["--model", "simulated"],
        ["--model", "auto,epoll"],
        ["--port", "65536"],
        ["--workers", "0"],
        ["--grace", "-1"],
        ["--interval", "nan"],
        ["--unix", "s", "--port", "9001"],
        ["--unix", "s", "--host", "127.0.0.1"],
    ],
)
def test_wrong_options_are_status_2(arguments, capsys):
    assert run(["serve", "echo", *arguments]) == 2
    assert "Error:" in capsys.readouterr().err


def test_a_port_in_use_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(["serve", "echo", "--port", str(port)]) == 1
    said = capsys.readouterr().err
    assert f"noria: port {port} on 127.0.0.1 is in use\n" in said
    assert "--port 0" in said


def test_a_path_that_exists_is_reported(tmp_path, capsys):
    path = tmp_path / "file"
    path.touch()
    assert run(["serve", "echo", "--unix", str(path)]) == 1
    assert f"{path} exists already" in capsys.readouterr().err
    assert path.exists()


def test_a_refused_model_is_reported_with_the_reason(monkeypatch, capsys):
    monkeypatch.setenv("NORIA_IO_URING", "0")
    assert run(["serve", "echo", "--port", "0", "--model", "io_uring"]) == 1
    said = capsys.readouterr().err
    assert "NORIA_IO_URING" in said
    assert "Errno" not in said


def children_of(pid):
    """Return the child processes of a process."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found.update((task / "children").read_text().split())
    return found


@pytest.mark.parametrize("arguments", [("echo",), ("files", ".")])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_that_is_closed_ends_all_processes(tmp_path, arguments, workers):
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, *arguments, "--port", "0", "--workers", workers],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=tmp_path,
            env=environment(),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        shown = b""
        while b"press Ctrl-C to stop" not in shown:
            shown += os.read(ours, 4096)
        found = children_of(process.pid)
        assert len(found) == (2 if workers == "2" else 0)
    finally:
        os.close(ours)
    assert process.wait(20) == 0
    assert not any(Path("/proc", pid).exists() for pid in found)


@pytest.mark.parametrize("log", ["none", "common"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_files_are_served_without_standard_streams(tmp_path, log, workers):
    (tmp_path / "a").write_bytes(b"hello")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, "files", ".", "--port", str(port), "--workers", workers, "--log", log],
        cwd=tmp_path,
        env=environment(),
        preexec_fn=lambda: [os.close(fd) for fd in range(3)],
    )
    try:
        answer = b""
        while not answer:
            assert process.poll() is None
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection(("127.0.0.1", port), 10) as sock,
            ):
                sock.sendall(b"GET /a HTTP/1.0\r\n\r\n")
                answer = sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
