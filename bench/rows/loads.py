"""Load generators other than the echo's: the compiled programs of bench/load, and wrk."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from harness import BENCH, Unavailable, built, end

from noria.compare.loadgen.command import CpuTime
from rows.row import Place, Sample

TIMEOUT_SECONDS = 20.0  # beyond the duration of the run
SETTLE_SECONDS = 0.3  # until wrk has connected


class CpuShares:
    """CPU and run-queue waiting time of the server and the load, as shares of elapsed time."""

    def __init__(self, server: int, load: int) -> None:
        self.server, self.load = CpuTime(server), CpuTime(load)

    def start(self) -> None:
        self.began = time.monotonic()
        self.server.start()
        self.load.start()

    def stop(self) -> None:
        self.server.stop()
        self.load.stop()
        self.passed = time.monotonic() - self.began

    def sample(self, value: float) -> Sample:
        """Return the value as a Sample with these shares."""
        used = self.server.user + self.server.kernel
        return Sample(
            value,
            used / self.passed,
            self.server.waiting / self.passed,
            self.load.waiting / self.passed,
        )


def run_compiled(program: str, *words: object, at: Place, pid: int, libraries: str = "") -> Sample:
    """Run a compiled load and return COUNT / SECONDS.

    The load prints "begin", then "end COUNT SECONDS [LAST]". LAST is the part of SECONDS that
    passed after the last byte was sent. Raises Unavailable if the load fails.
    """
    path = built(BENCH / "load" / f"{program}.c", *libraries.split())
    with load_process([str(path), *map(str, words)], at) as process:
        assert process.stdout is not None
        shares = CpuShares(pid, process.pid)
        result: list[str] = []
        for line in process.stdout:
            if line == "begin\n":
                shares.start()
            elif line.startswith("end "):
                shares.stop()
                result = line.split()
                break
        _, errors = process.communicate()
        if not result or process.returncode:
            raise Unavailable(
                (errors.strip().splitlines() or ["the load generator printed no result"])[-1]
            )
    found = shares.sample(int(result[1]) / float(result[2]))
    return replace(found, last=float(result[3]) / float(result[2])) if result[3:] else found


def exchange(port: int, *what: object, at: Place, pid: int) -> Sample:
    """Measure responses a second on 100 connections.

    `what` is "plain" or "tls", then "http", or "echo" and the message size in bytes.
    """
    words = (port, 100, at.seconds, *what)
    return run_compiled("exchange", *words, at=at, pid=pid, libraries="ssl crypto")


def wrk(url: str, *, at: Place, pid: int, connections: int = 100) -> Sample:
    """Measure requests a second with wrk."""
    return run_wrk(url, at=at, pid=pid, connections=connections)[0]


def run_wrk(url: str, *options: str, at: Place, pid: int, connections: int) -> tuple[Sample, str]:
    """Run wrk and return requests a second and its output.

    wrk takes whole seconds, so the duration is rounded up.
    """
    if not shutil.which("wrk"):
        raise Unavailable("wrk is not installed")
    seconds = math.ceil(at.seconds)
    with load_process(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *options, url], at
    ) as process:
        time.sleep(SETTLE_SECONDS)
        shares = CpuShares(pid, process.pid)
        shares.start()
        time.sleep(seconds - 2 * SETTLE_SECONDS)
        shares.stop()
        out, errors = process.communicate()
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    wrong = re.search(r"Socket errors:.*|Non-2xx.*", out)
    if wrong or not found or not float(found[1]):
        raise Unavailable(wrong[0] if wrong else errors.strip() or "wrk received no response")
    return shares.sample(float(found[1])), out


@contextlib.contextmanager
def load_process(words: list[str], at: Place) -> Iterator[subprocess.Popen[str]]:
    """Run a load on its core; kill it if it exceeds its duration by TIMEOUT_SECONDS."""
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=partial(os.sched_setaffinity, 0, {at.load}),
    )
    killer = threading.Timer(at.seconds + TIMEOUT_SECONDS, process.kill)
    killer.start()
    try:
        yield process
    except OSError as error:
        # /proc has no CPU times of a process that has exited.
        raise Unavailable(f"the server or the load generator exited early: {error}") from None
    finally:
        killer.cancel()
        end(process)
