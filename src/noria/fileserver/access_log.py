"""A line for each answer: the common log format of NCSA httpd, or JSON."""

from __future__ import annotations

import json
import time
from typing import TextIO
from urllib.parse import quote, urlencode

from noria.fileserver.auth import user_of
from noria.http.messages import Request


class AccessLog:
    """`kind` is "common" or "json"."""

    def __init__(self, kind: str, out: TextIO) -> None:
        self._line = {"common": common, "json": as_json}[kind]
        self._out = out

    def __call__(
        self, request: Request | None, status: int, sent: int, seconds: float, peer: str
    ) -> None:
        try:
            self._out.write(self._line(request, status, sent, seconds, peer) + "\n")
            self._out.flush()
        except (OSError, ValueError):
            pass  # nobody reads it any more: that is no reason not to serve


def place(request: Request) -> str:
    """The target as it stood in the request line, or another way of writing it."""
    path = quote(request.path, errors="surrogateescape")
    return f"{path}?{urlencode(request.query, errors='replace')}" if request.query else path


def common(request: Request | None, status: int, sent: int, seconds: float, peer: str) -> str:
    line = f"{request.method} {place(request)} HTTP/1.1" if request is not None else "-"
    user = quote(user_of(request)) if request is not None and status != 401 else ""
    now = time.strftime("%d/%b/%Y:%H:%M:%S %z")
    return f'{peer or "-"} - {user or "-"} [{now}] "{line}" {status} {sent or "-"}'


def as_json(request: Request | None, status: int, sent: int, seconds: float, peer: str) -> str:
    facts = {
        "time": round(time.time(), 3),
        "client": peer,
        "user": user_of(request) if request is not None and status != 401 else "",
        "method": request.method if request is not None else None,
        "target": place(request) if request is not None else None,
        "status": status,
        "bytes": sent,
        "seconds": round(seconds, 6),
    }
    return json.dumps(facts)
