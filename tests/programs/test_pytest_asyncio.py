"""pytest-asyncio with noria's loop, selected by its event_loop_policy fixture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from starting import environment

pytest.importorskip("pytest_asyncio")

PROGRAM = """
import asyncio, pytest, noria

@pytest.fixture(scope="session")
def event_loop_policy():
    return noria.EventLoopPolicy()

@pytest.mark.asyncio
async def test_it():
    assert type(asyncio.get_running_loop()) is noria.EventLoop
    await asyncio.sleep(0.01)
"""


def test_pytest_asyncio(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PROGRAM)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope=function\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


SHARED = """
import asyncio, pytest, pytest_asyncio

async def answer(reader, writer):
    while line := await reader.readline():
        writer.write(line)
    writer.close()

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def address():
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pool():
    idle = []
    yield idle
    for reader, writer in idle:
        writer.close()
        await writer.wait_closed()

async def call(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"x\\n")
    assert await reader.readline() == b"x\\n"
    return reader, writer

@pytest.mark.asyncio(loop_scope="session")
async def test_keeps_alive(address, pool):
    pool.append(await call(address))

@pytest.mark.asyncio(loop_scope="session")
async def test_closes(address):
    reader, writer = await call(address)
    writer.close()
    await writer.wait_closed()

@pytest.mark.asyncio
async def test_leaks(address):
    asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)

@pytest.mark.asyncio
async def test_is_clean(address):
    await asyncio.sleep(0)
"""


def test_leaks_of_shared_loops(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SHARED)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope=function\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noria-leaks"]
    done = subprocess.run(
        [*command, "test_it.py"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "4 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ERROR test_it.py::test_leaks" in done.stdout
