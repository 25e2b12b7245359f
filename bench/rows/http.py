"""HTTP: a bare protocol, the same with TLS, and the web servers of others."""

from __future__ import annotations

import importlib.util
from functools import partial

from harness import Unable

from rows.loads import exchange, wrk
from rows.row import UVLOOP, Place, Row, Sample, server_command, serving
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
            raise Unable(f"not installed: pip install {package}")
    with serving(server_command(loop, kind), at) as (pid, port):
        return wrk(f"http://127.0.0.1:{port}/", at=at, pid=pid)


# wrk is the limit of what is fast, and is given what is not.
ROWS = (
    Row("HTTP, bare Protocol", bare),
    Row("HTTPS, bare Protocol", secure),
    Row("HTTPS, bare Protocol, wrk", secure_wrk, goal=2.4, against=UVLOOP),
    Row("uvicorn", partial(framework, "uvicorn", "uvicorn httptools"), goal=1.5, against=UVLOOP),
    Row("aiohttp", partial(framework, "aiohttp", "aiohttp"), goal=1.45, against=UVLOOP),
)
