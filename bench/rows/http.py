"""HTTP rows: a bare protocol with and without TLS, and web servers."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path

from harness import Unavailable, free_port, serving_port

from rows.loads import exchange, wrk
from rows.row import (
    GRANIAN,
    PYTHON_PEERS,
    UVLOOP,
    Place,
    Row,
    Sample,
    one_shot,
    server_command,
    serving,
)
from rows.tls import certificate


@one_shot
def bare(loop: str, at: Place) -> Sample:
    """Measure requests a second of a protocol with a constant response."""
    with serving(server_command(loop, "reply"), at) as (pid, port):
        return exchange(port, "plain", "http", at=at, pid=pid)


@one_shot
def secure(loop: str, at: Place) -> Sample:
    """Measure `bare` over TLS."""
    words = server_command(loop, "reply", *certificate(at))
    with serving(words, at) as (pid, port):
        return exchange(port, "tls", "http", at=at, pid=pid)


@one_shot
def secure_wrk(loop: str, at: Place) -> Sample:
    """Measure `bare` over TLS with wrk, the usual load generator for HTTPS."""
    with serving(server_command(loop, "reply", *certificate(at)), at) as (pid, port):
        return wrk(f"https://127.0.0.1:{port}/", at=at, pid=pid)


@one_shot
def framework(kind: str, packages: str, loop: str, at: Place) -> Sample:
    """Measure requests a second of a web server; raises Unavailable if it is not installed."""
    for package in packages.split():
        if importlib.util.find_spec(package) is None:
            raise Unavailable(f"not installed: pip install {package}")
    if loop == GRANIAN:
        return granian(kind, at)
    with serving(server_command(loop, kind), at) as (pid, port):
        return wrk(f"http://127.0.0.1:{port}/", at=at, pid=pid)


def granian(kind: str, at: Place) -> Sample:
    """Measure the same application under granian with one uvloop worker."""
    if importlib.util.find_spec(GRANIAN) is None:
        raise Unavailable("not installed: pip install granian")
    port = free_port()
    words = [sys.executable, "-m", "granian", "--interface", "asgi", "--http", "1", "--no-ws"]
    words += ["--loop", "uvloop", "--port", str(port), "--backlog", str(BACKLOG), "--no-log"]
    words += ["--working-dir", str(PYTHON_PEERS)]
    words += ["--factory", "frameworks:fastapi_app"] if kind == "fastapi" else ["frameworks:hello"]
    with serving_port(words, at.server, port) as (pid, _):
        return wrk(f"http://127.0.0.1:{port}/", at=at, pid=worker(pid))


def worker(parent: int) -> int:
    """Return the pid of the process that serves: the last child of granian's first process."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[-1]) if children else parent


BACKLOG = 4096

# The compiled load drives the fast servers, which wrk would limit; wrk drives the slower ones.
ROWS = (
    Row("HTTP, bare Protocol", bare),
    Row("HTTPS, bare Protocol", secure),
    Row("HTTPS, bare Protocol, wrk", secure_wrk, goal=2.4, against=UVLOOP),
    Row(
        "uvicorn",
        partial(framework, "uvicorn", "uvicorn httptools"),
        goal=1.5,
        against=UVLOOP,
        servers=(GRANIAN,),
    ),
    Row(
        "uvicorn, FastAPI",
        partial(framework, "fastapi", "uvicorn httptools fastapi"),
        servers=(GRANIAN,),
    ),
    Row("aiohttp", partial(framework, "aiohttp", "aiohttp"), goal=1.45, against=UVLOOP),
)
