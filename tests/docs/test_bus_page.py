"""The programs in docs/bus.md run, and print what the page says."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from noria.bus.contract import Broker, Consumer
from support import brokers
from support.running import ROOT, environment, start_python

PAGE = ROOT / "docs" / "bus.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the sdist has no docs/")
SECONDS = 60.0
# A block of Python, with what it prints if the page says so.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def blocks() -> list[tuple[str, str | None]]:
    return [(found[1], found[2]) for found in BLOCK.finditer(PAGE.read_text())]


def run(directory: Path, name: str, **more: str) -> str:
    """Run a program in a directory; return what it prints."""
    done = subprocess.run(
        [sys.executable, name],
        cwd=directory,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with the programs that have a name in their first line."""
    pytest.importorskip("msgspec", reason="a handler of the page declares its data")
    for source, _ in blocks():
        if found := re.match(r"# (\w+\.py)\n", source):
            (tmp_path / found[1]).write_text(source)
    return tmp_path


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[brokers.BrokerServer]:
    """A broker for this test alone; its kind is the indirect parameter."""
    with brokers.running(request.param, tmp_path / "broker") as started:
        yield started


def test_programs_with_output(tmp_path: Path) -> None:
    shown = [(source, output) for source, output in blocks() if output is not None]
    assert len(shown) >= 2
    for number, (source, output) in enumerate(shown):
        name = f"program{number}.py"
        (tmp_path / name).write_text(source)
        assert run(tmp_path, name) == output


def test_one_process(programs: Path) -> None:
    output = run(programs, "one_process.py")
    assert sorted(output.splitlines()) == ["invoice 1: 9.50 (ann)", "stock 1"]


@pytest.mark.parametrize("server", ["nats", "redis"], indirect=True)
def test_more_processes(programs: Path, server: brokers.BrokerServer) -> None:
    """The handlers of the page run in `noria work`, unchanged."""
    pytest.importorskip("click")
    command = ("-m", "noria", "work", "app:bus", "--workers", 2, "--concurrency", 100)
    worker = start_python(*command, cwd=programs, EVENTS=server.url)
    try:
        run(programs, "emits.py", EVENTS=server.url)
        assert worker.stdout is not None
        wanted = {"invoice 1: 9.50 (ann)", "invoice 2: 12.00 (ann)", "stock 1", "stock 2"}
        found: list[str] = []
        for line in worker.stdout:
            found += [text for text in wanted if line.strip() == text]
            if wanted <= set(found):
                break
        assert found.index("invoice 1: 9.50 (ann)") < found.index("invoice 2: 12.00 (ann)")
        assert found.index("stock 1") < found.index("stock 2")
    finally:
        worker.terminate()
        worker.communicate(timeout=SECONDS)
    assert worker.returncode == 0


@pytest.mark.parametrize("server", ["nats", "redis"], indirect=True)
def test_other_languages(programs: Path, server: brokers.BrokerServer) -> None:
    """The commands of the page, given to the broker as its own tools would do it."""
    pytest.importorskip("click")
    program = {"nats": "nats", "redis": "redis-cli"}[server.kind]
    lines = [shlex.split(line) for line in PAGE.read_text().splitlines() if line[:4] == "    "]
    commands = [words[1:] for words in lines if words[:1] == [program]]
    keyed = {"specversion": "1.0", "id": "2", "source": "/shop", "type": "order.paid"}
    data = {"number": 4, "euros": 6}
    body = json.dumps({**keyed, "partitionkey": "ann", "data": data})
    number = zlib.crc32(b"ann") % 16
    if server.kind == "nats":
        # The streams exist when a worker has started.
        commands.append(["request", f"noria.e.{number}.order.paid", body])
    else:
        commands.append(["SADD", "noria:keyed", "order.paid"])
        commands.append(["XADD", f"noria:s:order.paid:{number}", "*", "e", body])
    assert len(commands) >= 2
    worker = start_python("-m", "noria", "work", "app:bus", cwd=programs, EVENTS=server.url)
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            if line.startswith("press Ctrl-C"):
                break
        for command in commands:
            (_nats if server.kind == "nats" else _redis)(server, command)
        wanted = {"invoice 3: 5.00 (None)", "stock 3", "invoice 4: 6.00 (ann)", "stock 4"}
        found: set[str] = set()
        for line in worker.stdout:
            found.add(line.strip())
            if wanted <= found:
                break
        assert wanted <= found
    finally:
        worker.terminate()
        worker.communicate(timeout=SECONDS)
    lag = [sys.executable, "-m", "noria", "events", "lag", server.url]
    shown = subprocess.run(lag, capture_output=True, text=True, env=environment(), timeout=SECONDS)
    assert "order.paid" in shown.stdout


def _redis(server: brokers.BrokerServer, command: list[str]) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis(port=server.port) as client:
        client.execute_command(*command)


def _nats(server: brokers.BrokerServer, command: list[str]) -> None:
    nats = pytest.importorskip("nats")
    verb, subject, body = command
    assert verb == "request"

    async def request() -> None:
        client = await nats.connect(server.url)
        answer = await client.request(subject, body.encode(), timeout=SECONDS)
        assert json.loads(answer.data)["stream"] == "noria"
        await client.close()

    asyncio.run(request())


def test_the_adapter_has_all_methods() -> None:
    [source] = [source for source, _ in blocks() if "class RabbitBroker" in source]
    namespace: dict[str, type] = {}
    exec(source, namespace)
    for name, base in (("RabbitBroker", Broker), ("RabbitConsumer", Consumer)):
        assert issubclass(namespace[name], base)
        assert not namespace[name].__abstractmethods__  # type: ignore[attr-defined]


def test_every_block_is_tested() -> None:
    for source, output in blocks():
        named = re.match(r"# (app|one_process|emits)\.py\n", source)
        assert output is not None or named or "class RabbitBroker" in source, source
