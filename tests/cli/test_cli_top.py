"""``noria top``: what it prints, how it fails, and a process that it observes."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

pytest.importorskip("click")

from noria.cli.main import run
from noria.sight.top import session
from support.observations import ScriptedSource
from support.running import is_stopped, line, start
from support.waiting import eventually

PROGRAM = """
import asyncio, noria
noria.watch()
async def waits_here(): await asyncio.sleep(3600)
async def main():
    task = asyncio.create_task(waits_here(), name="sleeper")
    print("ready", flush=True)
    while True: await asyncio.sleep(0.01)
noria.run(main())
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """A directory for sockets of this test, in a short path."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """The socket of a scripted process, and its source."""
    source = ScriptedSource()
    source.step = 1
    path = tmp_path / "scripted.sock"
    path.touch()
    monkeypatch.setattr(session, "LiveSource", lambda target: source)
    return str(path), source


def test_once_prints_text(scripted, capsys):
    path, source = scripted
    assert run(["top", path, "--once"]) == 0
    text = capsys.readouterr().out
    assert "process 4711: python -m chat --port 8888" in text
    assert "├─ broadcast" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert source.closed


def test_without_a_terminal_it_prints_text_until_the_process_ends(scripted, capsys, monkeypatch):
    path, source = scripted
    steps = iter([None, None, ConnectionResetError(104, "reset")])
    observe = source.observe

    def scripted_observe():
        source.error = next(steps)
        source.has_ended = source.error is not None
        return observe()

    monkeypatch.setattr(source, "observe", scripted_observe)
    assert run(["top", path, "--interval", "0.1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("process 4711: ") == 3
    assert "The process has ended: these are its last figures." in captured.out
    assert captured.err == "noria: process 4711 has ended\n"


def test_json_is_one_object_a_line(scripted, capsys):
    path, source = scripted
    assert run(["top", path, "--json", "--once"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["loops"][0]["rates"]["events"] > 0
    assert source.closed


def test_web_prints_the_address_of_the_page(scripted, capsys, monkeypatch):
    pytest.importorskip("httptools")
    path, source = scripted
    served = []

    def serve(page, host, port, announce):
        served.append((host, port))
        announce(f"http://{host}:{port}/token/")

    monkeypatch.setattr("noria.sight.top.web.serve_until_signal", serve)
    assert run(["top", path, "--web", "8123"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("http://127.0.0.1:8123/token/\n")
    assert captured.err == ""
    assert source.closed
    assert run(["top", path, "--web", "0.0.0.0:0"]) == 0
    assert "other machines can reach this address" in capsys.readouterr().err
    assert served == [("127.0.0.1", 8123), ("0.0.0.0", 0)]


def test_web_on_a_port_in_use(scripted, capsys):
    pytest.importorskip("httptools")
    path, _ = scripted
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run(["top", path, "--web", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"noria: cannot listen on 127.0.0.1:{port}: address already in use\n"
        "       choose another address with --web [HOST:]PORT; port 0 takes any free one\n"
    )


def test_wrong_use(capsys):
    assert run(["top", "--list", "--text"]) == 2
    assert "--list and --text cannot be used together" in capsys.readouterr().err
    assert run(["top", "--interval", "0.01"]) == 2


def test_errors_say_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("noria.sight.top.processes.processes", list)
    assert run(["top", "--once"]) == 1
    assert "no process is watched by noria\n       start it with 'noria run" in (
        capsys.readouterr().err
    )
    assert run(["top", "999999999"]) == 1
    assert "there is no process 999999999" in capsys.readouterr().err
    assert run(["top", str(os.getpid()), "--json"]) == 1
    assert f"process {os.getpid()} is not watched by noria" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(["top", str(tmp_path / "file"), "--once"]) == 1
    assert f"{tmp_path}/file: Connection refused" in capsys.readouterr().err


def test_a_process_that_does_not_answer_is_dumped(runtime, capsys):
    process = start(PROGRAM)
    pid = str(process.pid)
    file = runtime / "last.noria"
    try:
        assert line(process) == "ready"
        os.kill(process.pid, signal.SIGSTOP)
        eventually(lambda: is_stopped(process.pid))
        assert run(["top", pid, "--once"]) == 1
        errors = capsys.readouterr().err
        assert "the process does not answer" in errors
        assert f"'noria top --dump FILE {pid}'" in errors
        assert run(["top", pid, "--dump", str(file)]) == 0
        dumped = file.read_bytes()
        # It does not write the file again once it answers.
        os.kill(process.pid, signal.SIGCONT)
        assert run(["top", pid, "--once"]) == 0
        assert file.read_bytes() == dumped
    finally:
        process.kill()
        process.communicate()
    capsys.readouterr()
    assert run(["report", str(file), "--text"]) == 0
    assert "loop 0" in capsys.readouterr().out


def test_a_process_is_observed(runtime, capsys):
    process = start(PROGRAM)
    pid = str(process.pid)
    try:
        assert line(process) == "ready"
        assert run(["top", "--list", "--json"]) == 0
        listed = [each["pid"] for each in json.loads(capsys.readouterr().out)]
        assert process.pid in listed
        assert run(["top", "--list"]) == 0
        assert pid in capsys.readouterr().out

        sleeper = None
        while sleeper is None:  # until the first snapshot of the tasks
            assert run(["top", pid, "--json", "--once"]) == 0
            seen = json.loads(capsys.readouterr().out)
            tasks = [task for loop in seen["loops"] for task in loop["tasks"]]
            sleeper = next((task for task in tasks if task["name"] == "sleeper"), None)
        assert seen["pid"] == process.pid
        assert any(place["function"] == "waits_here" for place in sleeper["waiting_at"])

        assert run(["top", pid, "--once"]) == 0
        assert "sleeper" in capsys.readouterr().out

        file = Path(runtime, "last.noria")
        assert run(["top", pid, "--dump", str(file)]) == 0
        assert file.stat().st_size > 0
        assert f"noria report {file}" in capsys.readouterr().out
    finally:
        process.kill()
        process.communicate()
    assert run(["top", pid, "--once"]) == 1
    assert f"there is no process {pid}" in capsys.readouterr().err
