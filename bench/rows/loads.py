"""Loads other than the echo's: compiled programs of bench/load, and wrk."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import time
from functools import partial

from harness import BENCH, Unable, built, end

from noria.compare.loadgen import CpuTime
from rows.row import Place, Sample

PATIENCE = 20.0  # seconds beyond those of the run
SETTLE = 0.3  # seconds until wrk's connections are made


def compiled(program: str, *words: object, at: Place, pid: int, libraries: str = "") -> Sample:
    """Run a load; it prints "begin", and later "end COUNT SECONDS". Gives COUNT a second."""
    path = built(BENCH / "load" / f"{program}.c", *libraries.split())
    process = started([str(path), *map(str, words)], at)
    assert process.stdout is not None
    try:
        said: list[str] = []
        cpu = CpuTime(pid)
        # No line for too long: `timeout` has ended the load, and the pipe with it.
        for line in process.stdout:
            if line == "begin\n":
                cpu.start()
                began = time.monotonic()
            elif line.startswith("end "):
                cpu.stop()
                said = line.split()
                busy = (cpu.user + cpu.kernel) / (time.monotonic() - began)
        _, errors = process.communicate()
        if not said or process.returncode:
            raise Unable((errors.strip().splitlines() or ["the load did not end"])[-1])
    except ProcessLookupError:
        raise Unable("the server ended") from None
    finally:
        end(process)
    return Sample(int(said[1]) / float(said[2]), busy)


def wrk(url: str, *, at: Place, pid: int, connections: int = 100) -> Sample:
    """Requests a second by wrk, which counts whole seconds: at least those that are asked for."""
    if not shutil.which("wrk"):
        raise Unable("wrk is not installed")
    seconds = math.ceil(at.seconds)
    process = started(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url], at)
    try:
        time.sleep(SETTLE)
        cpu = CpuTime(pid)
        cpu.start()
        began = time.monotonic()
        time.sleep(seconds - 2 * SETTLE)
        cpu.stop()
        busy = (cpu.user + cpu.kernel) / (time.monotonic() - began)
        out, errors = process.communicate()
    except ProcessLookupError:
        raise Unable("the server ended") from None
    finally:
        end(process)
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    wrong = re.search(r"Socket errors:.*|Non-2xx.*", out)
    if wrong or not found or not float(found[1]):
        raise Unable(wrong[0] if wrong else errors.strip() or "wrk had no answer")
    return Sample(float(found[1]), busy)


def started(words: list[str], at: Place) -> subprocess.Popen[str]:
    """A load on its core, ended by `timeout` if it does not end by itself."""
    return subprocess.Popen(
        ["timeout", str(at.seconds + PATIENCE), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=partial(os.sched_setaffinity, 0, {at.load}),
    )
