"""HTTP by wrk: a bare protocol, the same with TLS, and the web servers of others."""

from __future__ import annotations

import importlib.util
from functools import partial

from harness import Unable, serving_command

from rows.loads import wrk
from rows.row import UVLOOP, Place, Row, Sample, server_command
from rows.tls import certificate


def plain(kind: str, loop: str, at: Place) -> Sample:
    """Requests a second."""
    for package in {"uvicorn": ("uvicorn", "httptools"), "aiohttp": ("aiohttp",)}.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            raise Unable(f"not installed: pip install {package}")
    with serving_command(server_command(loop, kind), at.server) as (pid, port):
        return wrk(f"http://127.0.0.1:{port}/", at=at, pid=pid)


def secure(loop: str, at: Place) -> Sample:
    """Requests a second over TLS."""
    words = server_command(loop, "reply", *certificate(at))
    with serving_command(words, at.server) as (pid, port):
        return wrk(f"https://127.0.0.1:{port}/", at=at, pid=pid)


ROWS = (
    Row("HTTP, bare Protocol", partial(plain, "reply")),
    Row("HTTPS, bare Protocol", secure, goal=2.4, against=UVLOOP),
    Row("uvicorn", partial(plain, "uvicorn"), goal=1.5, against=UVLOOP),
    Row("aiohttp", partial(plain, "aiohttp"), goal=1.45, against=UVLOOP),
)
