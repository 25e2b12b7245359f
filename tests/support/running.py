"""Run Python source in a subprocess that can import the package and the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    paths = [os.path.abspath(part) for part in sys.path if part]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **more}


def start_python(*arguments: object, cwd: Path | None = None, **more: str) -> subprocess.Popen[str]:
    """Start Python with arguments, as "-m", "noria", with pipes for its output and errors.

    `more`: environment variables.
    """
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(**more),
    )


def start(source: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start a process that runs `source`, with pipes for its output and errors."""
    return start_python("-c", textwrap.dedent(source), *arguments, **more)


def finish(process: subprocess.Popen[str], seconds: float = 20) -> tuple[int, str, str]:
    """Wait for (status, output, errors); a process that does not end is killed: the test fails."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the process did not end in {seconds} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def run(source: str, *arguments: str, **more: str) -> str:
    """Run `source`, which must exit with 0; return its output."""
    status, out, err = finish(start(source, *arguments, **more))
    assert status == 0, f"status {status}\n{out}\n{err}"
    return out


def line(process: subprocess.Popen[str]) -> str:
    """Read the next line of its output."""
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    if not text:
        process.kill()
        raise AssertionError(f"the process ended without output:\n{process.communicate()[1]}")
    return text


__all__ = [
    "ROOT",
    "environment",
    "finish",
    "is_stopped",
    "line",
    "run",
    "signal",
    "start",
    "start_python",
]


def children(pid: int | str = "self") -> set[int]:
    """Return the child processes that still exist."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found.update(map(int, (task / "children").read_text().split()))
    return found


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped all threads of a process: proc(5), the state in stat."""
    states = {
        path.read_text().rpartition(")")[2].split()[0]
        for path in Path(f"/proc/{pid}/task").glob("*/stat")
    }
    return states == {"T"}
