"""The programs in docs/bus.md run, and print what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
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
