"""Loads other than the echo's: compiled programs of bench/load, and wrk."""

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

TIMEOUT_SECONDS = 20.0  # seconds beyond those of the run
SETTLE = 0.3  # seconds until wrk's connections are made


class Shares:
    """Which shares of a time the server and the load had and waited for their cores."""

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
        """The figure with its circumstances."""
        used = self.server.user + self.server.kernel
        return Sample(
            value,
            used / self.passed,
            self.server.waiting / self.passed,
            self.load.waiting / self.passed,
        )


def compiled(program: str, *words: object, at: Place, pid: int, libraries: str = "") -> Sample:
    """Run a load; it prints "begin", and later "end COUNT SECONDS [LAST]". Gives COUNT a second.

    LAST are the seconds of these from the last byte that was sent on.
    """
    path = built(BENCH / "load" / f"{program}.c", *libraries.split())
    with started([str(path), *map(str, words)], at) as process:
        assert process.stdout is not None
        shares = Shares(pid, process.pid)
        said: list[str] = []
        for line in process.stdout:
            if line == "begin\n":
                shares.start()
            elif line.startswith("end "):
                shares.stop()
                said = line.split()
                break
        _, errors = process.communicate()
        if not said or process.returncode:
            raise Unavailable((errors.strip().splitlines() or ["the load did not end"])[-1])
    found = shares.sample(int(said[1]) / float(said[2]))
    return replace(found, last=float(said[3]) / float(said[2])) if said[3:] else found


def exchange(port: int, *what: object, at: Place, pid: int) -> Sample:
    """Answers a second on 100 connections: plain or tls, echo and the bytes or http."""
    words = (port, 100, at.seconds, *what)
    return compiled("exchange", *words, at=at, pid=pid, libraries="ssl crypto")


def wrk(url: str, *, at: Place, pid: int, connections: int = 100) -> Sample:
    """Requests a second by wrk."""
    return wrk_said(url, at=at, pid=pid, connections=connections)[0]


def wrk_said(url: str, *options: str, at: Place, pid: int, connections: int) -> tuple[Sample, str]:
    """Requests a second, and all that wrk says.

    It counts whole seconds: at least those that are asked for.
    """
    if not shutil.which("wrk"):
        raise Unavailable("wrk is not installed")
    seconds = math.ceil(at.seconds)
    with started(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *options, url], at) as process:
        time.sleep(SETTLE)
        shares = Shares(pid, process.pid)
        shares.start()
        time.sleep(seconds - 2 * SETTLE)
        shares.stop()
        out, errors = process.communicate()
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    wrong = re.search(r"Socket errors:.*|Non-2xx.*", out)
    if wrong or not found or not float(found[1]):
        raise Unavailable(wrong[0] if wrong else errors.strip() or "wrk had no answer")
    return shares.sample(float(found[1])), out


@contextlib.contextmanager
def started(words: list[str], at: Place) -> Iterator[subprocess.Popen[str]]:
    """A load on its core, which is ended if it does not end by itself."""
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
    except OSError as error:  # a process whose clock is asked for is no longer there
        raise Unavailable(f"the server or the load ended: {error}") from None
    finally:
        killer.cancel()
        end(process)
