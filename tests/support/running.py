"""Running Python source in a process of its own, with the package and the tests importable."""

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


def start(source: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """A process that runs `source`; its output and errors are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )


def finish(process: subprocess.Popen[str], seconds: float = 20) -> tuple[int, str, str]:
    """(status, output, errors); a process that does not end is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it did not end in {seconds} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def run(source: str, *arguments: str, **more: str) -> str:
    """The output of `source`, which must end well."""
    status, out, err = finish(start(source, *arguments, **more))
    assert status == 0, f"status {status}\n{out}\n{err}"
    return out


def line(process: subprocess.Popen[str]) -> str:
    """The next line of its output."""
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    if not text:
        process.kill()
        raise AssertionError(f"it said nothing and ended:\n{process.communicate()[1]}")
    return text


__all__ = ["ROOT", "environment", "finish", "line", "run", "signal", "start"]
