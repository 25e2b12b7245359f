"""Start and stop programs that listen on a port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def environment() -> dict[str, str]:
    """Return an environment with this process's sys.path and this directory in PYTHONPATH."""
    return dict(os.environ, PYTHONPATH=os.pathsep.join([*sys.path, str(HERE)]))


@contextlib.contextmanager
def started(
    *command: str, port: int | None = None, status: int | None = 0, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that listens on the port, if any; SIGTERM must end it with the given status."""
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    assert process.stdout is not None
    try:
        deadline = time.monotonic() + 30
        while port is not None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the program does not listen: {process.stdout.read().decode()}")
            time.sleep(0.05)
        yield process
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=30)[0].decode()
        if status is not None:
            assert process.returncode == status, output
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
