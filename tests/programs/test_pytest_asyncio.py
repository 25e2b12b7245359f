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
