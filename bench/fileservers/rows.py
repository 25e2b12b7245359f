"""What file servers are compared by, and what noria is to reach."""

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
from rows.loads import compiled, wrk_said
from rows.row import Place, Row, Sample

from fileservers.loads import SLOW, SLOW_MEASURED, kept_alive, slow
from fileservers.servers import NGINX, NORIA, PLAIN, UPLOADS, in_memory, served, serving

IDLE = 10_000
UPLOAD_SECONDS = 120.0  # the longest that is waited for
BOUNDARY = "boundary-of-the-form"
FILES = str(BENCH / "load" / "files.lua")


@dataclass(frozen=True, slots=True)
class Goal:
    """How many times better than another server noria is to be, or what its figure is to be."""

    amount: float
    beside: str = ""  # no other: the figure itself


@dataclass(frozen=True, slots=True)
class FileRow(Row):
    """A row whose goals are relative to several servers, or to none."""

    servers: Sequence[str] = (NORIA, NGINX)
    goals: Sequence[Goal] = ()

    def asks(self, loop: str) -> bool:
        """Whether this server has the row."""
        return loop.partition("-")[0] in self.servers


def download(big: int, server: str, at: Place) -> Sample:
    """GB a second of whole downloads, one after another, to a client that drops the bytes."""
    top = served(at, big)
    in_memory(top / "big")
    with serving(server, top, at) as (pid, port):
        found = compiled("sink", port, big, at.seconds, "/big", at=at, pid=pid)
        return replace(found, value=found.value / 1e9)


def small(big: int, server: str, at: Place) -> Sample:
    """Requests a second for small files, in turn."""
    with serving(server, served(at, big), at) as (pid, port):
        return requests(port, 100, at, pid)[0]


def requests(port: int, connections: int, at: Place, pid: int) -> tuple[Sample, float]:
    """Requests a second by wrk, and the 99th percentile of their times in µs."""
    url = f"http://127.0.0.1:{port}/"
    found, out = wrk_said(url, "-s", FILES, at=at, pid=pid, connections=connections)
    last = re.search(r"p99 (\d+) us", out)
    if not last:
        raise Unavailable("wrk told no percentile")
    return found, float(last[1])


def upload(big: int, server: str, at: Place) -> Sample:
    """MB a second of one upload, until its answer: by PUT, or by a form where there is no PUT."""
    at = replace(at, seconds=UPLOAD_SECONDS)
    top = served(at, big)
    in_memory(top / "big")
    os.sync()  # the disk has no work left of the one before
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
            found = compiled("upload", port, top / "big", head, tail, at=at, pid=pid)
        if (top / "uploaded").stat().st_size != big:
            raise Unavailable("what it stored is not as long as what was sent")
    except FileNotFoundError:
        raise Unavailable("it stored nothing") from None
    finally:
        (top / "uploaded").unlink(missing_ok=True)
    return replace(found, value=found.value / 1e6)


def idle(big: int, server: str, at: Place) -> Sample:
    """MB of resident memory that the connections add to a process which has served some."""
    with serving(server, served(at, big), at) as (pid, port):
        with kept_alive(port, 50):
            pass
        none = settled(pid)
        with kept_alive(port, IDLE):
            return Sample((settled(pid) - none) / 1e6)


def beside_slow(kind: str, big: int, server: str, at: Place) -> Sample:
    """The 99th percentile of requests beside slow clients, by that without them just before.

    Each is the median of a few seconds': one moment in which the machine did something else is
    more than a hundredth of a second or two, and would be all that the percentile tells of.
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
    """The rows, with a large file of so many bytes."""
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
