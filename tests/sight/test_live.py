"""The live protocol: its requests, and that no client can disturb the program."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import noria
from noria.errors import NoriaError
from noria.sight.client import Client, ClientError
from noria.sight.flight_recorder import dump_process
from noria.sight.recording import Recording
from noria.sight.server import MAX_CLIENTS, MAX_REQUEST
from noria.sight.socket_directory import socket_path, watched_processes
from support.running import finish, is_stopped, line, start
from support.waiting import DEADLINE, eventually

pytestmark = pytest.mark.usefixtures("runtime_directory")

PROGRAM = """
import asyncio, noria, sys
watch = noria.watch(report_blocks=False)
async def asleep():
    await asyncio.sleep(60)
async def main():
    task = asyncio.create_task(asleep(), name="asleep")
    print("ready", flush=True)
    while True:
        await asyncio.sleep(0.01)
noria.run(main())
"""


@pytest.fixture
def program() -> Iterator[int]:
    process = start(PROGRAM)
    try:
        line(process)
        yield process.pid
    finally:
        process.kill()
        finish(process)


@pytest.fixture
def watched() -> Iterator[str]:
    """The socket of this process, which is watched and runs a loop in a thread."""
    stop = threading.Event()

    async def main() -> None:
        while not stop.is_set():
            await asyncio.sleep(0.005)

    with noria.watch(report_blocks=False) as watch:
        thread = threading.Thread(target=lambda: noria.run(main()))
        thread.start()
        try:
            assert watch.agent is not None
            agent = watch.agent
            eventually(lambda: agent.loops)
            assert watch.socket is not None
            yield watch.socket
        finally:
            stop.set()
            thread.join()


def test_another_process_is_observed_and_dumped(program: int, tmp_path: Path) -> None:
    assert watched_processes() == {program: socket_path(program)}
    with Client.connect(program) as client:
        hello = client.hello()
        assert (hello["pid"], hello["protocol"]) == (program, 1)
        (loop,) = hello["loops"]
        assert loop["thread_name"] == "MainThread"
        names = client.names(0)
        assert any(name[2] == "asleep" for name in names)
        later = client.names(0, len(names))  # the loop goes on: there may be new ones
        assert client.names(0)[len(names) : len(names) + len(later)] == later
        snapshot = client.snapshot()
        assert "asleep" in [task["name"] for task in snapshot["loops"][0]["tasks"]]
        observer = client.observer()
        first = observer.observe().loops[0].turns
        eventually(lambda: observer.observe().loops[0].turns > first)
        assert observer.observe().answering
        observer.close()
        path = tmp_path / "dump.noria"
        assert client.dump(path) > 0
        with Recording.open(path) as recording:
            assert {each["what"] for each in recording.objects()} >= {"process", "loop", "names"}
            assert recording.records(0)


def test_a_stopped_process_is_silent_but_its_ring_is_read(program: int, tmp_path: Path) -> None:
    # The names are written once a second.
    eventually(lambda: dump_process(program, tmp_path / "early.noria") > 10)
    with Client.connect(program, timeout=0.2) as client:
        observer = client.observer()
        os.kill(program, signal.SIGSTOP)
        eventually(lambda: is_stopped(program))
        observation = observer.observe()
        assert not observation.answering
        assert observation.loops[0].turns > 0
        path = tmp_path / "stopped.noria"
        assert client.dump(path) > 0
        with Recording.open(path) as recording:
            assert list(recording.loops()) == [0]
            assert recording.records(0)
        os.kill(program, signal.SIGCONT)
        eventually(lambda: observer.observe().answering)
        observer.close()


def test_processes_that_are_not_watched_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="not watched"):
        Client.connect(os.getpid())
    with pytest.raises(ClientError, match="no process"):
        Client.connect(4194305)
    with pytest.raises(ClientError, match="No such file"):
        Client.connect(tmp_path / "nothing.sock")
    with pytest.raises(NoriaError, match="not watched"):
        dump_process(os.getpid(), tmp_path / "none.noria")


@pytest.mark.parametrize(
    "request_line",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b'{"get":"everything"}',
        b'{"get":["hello"]}',
        b'{"get":"ring","loop":99}',
        b'{"get":"names","loop":0,"after":"x"}',
        b'{"do":"dump"}',
        b'{"do":"dump","path":"relative"}',
        b'{"do":"dump","path":"/nowhere/at/all"}',
        b'{"get":"names","loop":true}',
        b"\xff\xfe",
    ],
)
def test_bad_requests_are_answered_with_an_error(watched: str, request_line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(watched)
        with sock.makefile("rb") as answers:
            sock.sendall(request_line + b"\n")
            assert json.loads(answers.readline()).keys() == {"error"}
            sock.sendall(b'{"get":"hello"}\n')
            assert json.loads(answers.readline())["pid"] == os.getpid()


def test_a_line_without_end_ends_the_connection(watched: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(watched)
        with pytest.raises(OSError):  # noqa: PT011
            for _ in range(100):
                sock.sendall(b"x" * MAX_REQUEST)


def test_a_client_that_does_not_read_does_not_keep_others_waiting(watched: str) -> None:
    with socket.socket(socket.AF_UNIX) as slow, Client.connect(watched) as client:
        slow.connect(watched)
        slow.setblocking(False)
        request = b'{"get":"names","loop":0}\n' * 1000
        for _ in range(20):
            try:
                slow.send(request)
            except BlockingIOError:
                break
        for _ in range(20):
            assert client.hello()["pid"] == os.getpid()


def test_too_many_clients_are_refused(watched: str) -> None:
    clients = [Client.connect(watched) for _ in range(MAX_CLIENTS)]
    for client in clients:
        client.hello()
    with pytest.raises(OSError), Client.connect(watched) as more:  # noqa: PT011
        more.hello()
    for client in clients:
        client.close()
    eventually(lambda: answers(watched))


def answers(path: str) -> bool:
    try:
        with Client.connect(path) as client:
            return bool(client.hello())
    except OSError:
        return False
