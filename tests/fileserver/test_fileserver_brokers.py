"""``noria serve files --events`` on real brokers: several processes, and a broker that goes."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import brokers, loops
from support.running import children, start_python
from support.waiting import eventually

pytest.importorskip("click")
pytest.importorskip("httptools")

import noria
from noria.cli.main import run

SOURCE = "https://files.example/"


class Server:
    """A ``noria serve files`` in processes of its own."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        command = ("-m", "noria", "serve", "files", directory, "--port=0", "--upload", "--metrics")
        self.process = start_python(*command, "--events-source", SOURCE, *arguments)
        assert self.process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.process.stdout.readline())
        assert found is not None, self.process.communicate()[1]
        self.port = int(found[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> str:
        """Stop it with SIGTERM; return what it wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=40)
        assert self.process.returncode == 0
        return err

    def wait_for(self, text: str) -> None:
        """Read standard error up to a line with this text."""
        assert self.process.stderr is not None
        while text not in (line := self.process.stderr.readline()):
            assert line

    @contextlib.contextmanager
    def asking(self, method: str, path: str) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, b"" if method == "PUT" else None)
            yield connection.getresponse()
        finally:
            connection.close()

    def put(self, path: str) -> None:
        with self.asking("PUT", path) as response:
            assert response.status == 201

    def metric(self, name: str) -> int:
        with self.asking("GET", "/-/metrics") as response:
            text = response.read().decode()
        found = re.search(rf"^noria_file_events_{name}\{{.*?\}} (\d+)$", text, re.MULTILINE)
        assert found is not None
        return int(found[1])


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[brokers.BrokerServer]:
    with brokers.running(request.param, tmp_path / "broker") as server:
        yield server


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "served"
    made.mkdir()
    return made


def collect(url: str, count: int, act: Callable[[], object] = lambda: None) -> list[str]:
    """Act; return the paths of the first files that were created, as a worker gets them."""
    paths: list[str] = []

    async def keep(event: noria.Event) -> None:
        paths.append(event.data["path"])

    async def main() -> None:
        bus = noria.Bus(url)
        bus.on("file.created", keep, group="collect")
        async with asyncio.timeout(40), bus:
            await asyncio.to_thread(act)
            await loops.until(lambda: len(set(paths)) >= count)

    noria.run(main())
    return sorted(set(paths))


def test_workers_and_machines_publish_and_follow_each_other(
    broker: brokers.BrokerServer, directory: Path
) -> None:
    with (
        Server(directory, "--events", broker.url, "--workers", 2) as several,
        Server(directory, "--events", broker.url) as other,
        other.asking("GET", "/-/events?path=/") as page,
    ):
        assert page.readline() == b"retry: 2000\n"
        expected = [f"/{number}" for number in range(8)]

        def put() -> None:
            for path in expected:
                several.put(path)

        assert collect(broker.url, 8, put) == expected
        # By the broker, not by looking at the directory.
        eventually(lambda: other.metric("received_total") == 8)
        while (line := page.readline()) != b"event: change\n":
            assert line
        assert several.end() == other.end() == ""


def test_a_server_goes_on_without_its_broker_and_publishes_when_it_is_back(
    broker: brokers.BrokerServer, directory: Path
) -> None:
    with (
        Server(directory, "--events", broker.url) as server,
        Server(directory, "--events", broker.url) as other,
    ):
        server.put("/before")
        eventually(lambda: other.metric("received_total") == 1)
        broker.stop()
        for number in range(3):
            server.put(f"/{number}")
        assert server.metric("waiting") == 3
        broker.start()
        assert collect(broker.url, 4) == ["/0", "/1", "/2", "/before"]
        eventually(lambda: server.metric("waiting") == 0)
        assert server.metric("lost_total") == 0

        # The other one subscribes again. It may miss what came before.
        received = other.metric("received_total")
        numbers = itertools.count()

        def followed() -> bool:
            server.put(f"/after-{next(numbers)}")
            time.sleep(0.02)
            return other.metric("received_total") > received + 3

        eventually(followed)
        # It stops without its broker, too.
        eventually(lambda: server.metric("waiting") == 0)
        broker.stop()
        server.put("/last")
        server.process.send_signal(signal.SIGINT)
        _, err = server.process.communicate(timeout=40)
        assert server.process.returncode == 0
        assert "the server stops; events that were not published: 1" in err
        assert 2 <= len(err.splitlines()) <= 4, err


def test_workers_that_started_without_the_broker_publish_when_it_is_back(
    broker: brokers.BrokerServer, directory: Path
) -> None:
    with Server(directory, "--events", broker.url, "--workers", 2) as server:
        broker.stop()
        for pid in children(server.process.pid):
            os.kill(pid, signal.SIGKILL)
        for said in ["tries again in the background"] * 2:
            server.wait_for(said)
        server.put("/a")
        broker.start()
        assert collect(broker.url, 1) == ["/a"]
        server.wait_for("is there now")
        server.end()


@pytest.mark.parametrize(
    ("kind", "command"), [("nats", "nats-server -js"), ("redis", "redis-server --appendonly yes")]
)
def test_without_a_broker_at_the_start_it_says_what_to_start(
    kind: str, command: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    brokers.require(kind)
    url = f"{kind}://127.0.0.1:{brokers.free_port()}"
    assert run(["serve", "files", str(directory), "--port=0", "--events", url]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"noria: no broker at {url}: connection refused",
        f"       start one with: {command}",
    ]
