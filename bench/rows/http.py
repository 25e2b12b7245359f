"""HTTP: a bare protocol, the same with TLS, and the web servers of others."""

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
    server_command,
    serving,
)
from rows.tls import certificate


def bare(loop: str, at: Place) -> Sample:
    """Requests a second of a protocol that answers each with the same bytes."""
    with serving(server_command(loop, "reply"), at) as (pid, port):
        return exchange(port, "plain", "http", at=at, pid=pid)


def secure(loop: str, at: Place) -> Sample:
    """The same over TLS."""
    words = server_command(loop, "reply", *certificate(at))
    with serving(words, at) as (pid, port):
        return exchange(port, "tls", "http", at=at, pid=pid)


def secure_wrk(loop: str, at: Place) -> Sample:
    """The same over TLS to wrk, as HTTPS is mostly measured."""
    with serving(server_command(loop, "reply", *certificate(at)), at) as (pid, port):
        return wrk(f"https://127.0.0.1:{port}/", at=at, pid=pid)


def framework(kind: str, packages: str, loop: str, at: Place) -> Sample:
    """Requests a second of a web server."""
    for package in packages.split():
        if importlib.util.find_spec(package) is None:
            raise Unavailable(f"not installed: pip install {package}")
    if loop == GRANIAN:
        return granian(kind, at)
    with serving(server_command(loop, kind), at) as (pid, port):
        return wrk(f"http://127.0.0.1:{port}/", at=at, pid=pid)


def granian(kind: str, at: Place) -> Sample:
    """Requests a second of that application under granian, with one worker on uvloop."""
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

# wrk is the limit of what is fast, and is given what is not.
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
