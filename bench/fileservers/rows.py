"""The rows of bench/fileserver.py and noria's goals."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from harness import BENCH, Unavailable
from memory import settled
from rows.loads import run_compiled, run_wrk
from rows.row import Place, Row, Sample, one_shot

from fileservers.loads import SLOW, SLOW_MEASURED, keep_alive_connections, slow
from fileservers.servers import NGINX, NORIA, PLAIN, UPLOADS, fill_page_cache, served, serving

IDLE = 10_000
UPLOAD_SECONDS = 120.0  # timeout of an upload's response
BOUNDARY = "boundary-of-the-form"
FILES = str(BENCH / "load" / "files.lua")


@dataclass(frozen=True, slots=True)
class Goal:
    """noria's goal: a ratio to another server, or a limit of its own value."""

    amount: float
    beside: str = ""  # "" for noria's own value


@dataclass(frozen=True, slots=True)
class FileRow(Row):
    """A row with goals relative to several servers, or to none."""

    servers: Sequence[str] = (NORIA, NGINX)
    goals: Sequence[Goal] = ()

    def applies_to(self, loop: str) -> bool:
        """Return whether this server has the row."""
        return loop.partition("-")[0] in self.servers


@one_shot
def download(big: int, server: str, at: Place) -> Sample:
    """Measure GB a second of successive downloads by a client that discards the bytes."""
    top = served(at, big)
    fill_page_cache(top / "big")
    with serving(server, top, at) as (pid, port):
        found = run_compiled("sink", port, big, at.seconds, "/big", at=at, pid=pid)
        return replace(found, value=found.value / 1e9)


@one_shot
def small(big: int, server: str, at: Place) -> Sample:
    """Measure requests a second for small files in rotation."""
    with serving(server, served(at, big), at) as (pid, port):
        return requests(port, 100, at, pid)[0]


def requests(port: int, connections: int, at: Place, pid: int) -> tuple[Sample, float]:
    """Run wrk; return requests a second and the 99th percentile of latency in µs."""
    url = f"http://127.0.0.1:{port}/"
    found, out = run_wrk(url, "-s", FILES, at=at, pid=pid, connections=connections)
    last = re.search(r"p99 (\d+) us", out)
    if not last:
        raise Unavailable("wrk printed no percentile")
    return found, float(last[1])


@one_shot
def upload(big: int, server: str, at: Place) -> Sample:
    """Measure MB a second of one upload until its response, by PUT or, without PUT, by a form."""
    at = replace(at, seconds=UPLOAD_SECONDS)
    top = served(at, big)
    fill_page_cache(top / "big")
    os.sync()  # flush the writes of the previous measurement
    path, tail, more = "/uploaded", "", ""
    if server == UPLOADS:
        path, tail = "/upload", f"\r\n--{BOUNDARY}--\r\n"
        more = (
            f"--{BOUNDARY}\r\n"
            'Content-Disposition: form-data; name="files"; filename="uploaded"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
    head = f"{'POST' if more else 'PUT'} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if more:
        head += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    head += f"Content-Length: {big + len(more) + len(tail)}\r\n\r\n{more}"
    try:
        with serving(server, top, at) as (pid, port):
            found = run_compiled("upload", port, top / "big", head, tail, at=at, pid=pid)
        if (top / "uploaded").stat().st_size != big:
            raise Unavailable("the stored file differs in size from the upload")
    except FileNotFoundError:
        raise Unavailable("it stored nothing") from None
    finally:
        (top / "uploaded").unlink(missing_ok=True)
    return replace(found, value=found.value / 1e6)


@one_shot
def idle(big: int, server: str, at: Place) -> Sample:
    """Measure MB of resident memory that idle connections add to a process after some requests."""
    with serving(server, served(at, big), at) as (pid, port):
        with keep_alive_connections(port, 50):
            pass
        none = settled(pid)
        with keep_alive_connections(port, IDLE):
            return Sample((settled(pid) - none) / 1e6)


@one_shot
def beside_slow(kind: str, big: int, server: str, at: Place) -> Sample:
    """Measure the ratio of p99 latency with slow clients to that without them just before.

    Each p99 is the median over several runs of 1 s: a single disturbance of the machine can exceed
    1% of a run and would decide its p99.
    """
    at = replace(at, seconds=1)
    top = served(at, big)
    try:
        with serving(server, top, at) as (pid, port):
            alone = [requests(port, 20, at, pid) for _ in range(SLOW_MEASURED)]
            with slow(kind, port, at):
                beside = [requests(port, 20, at, pid) for _ in range(SLOW_MEASURED)]
            value = median(p99 for _, p99 in beside) / median(p99 for _, p99 in alone)
            return replace(beside[-1][0], value=value)
    finally:
        Path(top, "late").unlink(missing_ok=True)


def rows(big: int) -> list[FileRow]:
    """Return the rows; `big` is the size of the large file in bytes."""
    size = f"{big >> 30} GiB" if big >= 1 << 30 else f"{big >> 20} MiB"
    plain = (NORIA, NGINX, PLAIN)
    shared: dict[str, Any] = {"driven": False, "less": True}
    return [
        FileRow(
            f"GET {size}",
            partial(download, big),
            unit="GB/s",
            servers=plain,
            goals=(Goal(0.95, NGINX),),
        ),
        FileRow(
            "GET 1 KiB, 100 connections",
            partial(small, big),
            servers=plain,
            goals=(Goal(0.6, NGINX), Goal(15, PLAIN)),
        ),
        FileRow(
            f"PUT {size}",
            partial(upload, big),
            unit="MB/s",
            driven=False,
            servers=(NORIA, NGINX, UPLOADS),
            goals=(Goal(1.0, NGINX),),
        ),
        FileRow(
            f"{IDLE:,} idle keep-alive connections",
            partial(idle, big),
            unit="MB",
            goals=(Goal(60),),
            **shared,
        ),
        *(
            FileRow(
                f"p99 beside {count} slow {kind}",
                partial(beside_slow, kind, big),
                unit="times",
                goals=(Goal(2),),
                **shared,
            )
            for kind, count in SLOW.items()
        ),
    ]
