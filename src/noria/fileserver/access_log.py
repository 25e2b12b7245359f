"""The access log: a line per response, in the Common Log Format or as JSON."""

from __future__ import annotations

import json
import time
from typing import TextIO
from urllib.parse import quote, urlencode

from noria.fileserver.auth import user_of
from noria.http.messages import Request


class AccessLog:
    """Writes lines to `out`; `kind` is "common" or "json"."""

    def __init__(self, kind: str, out: TextIO) -> None:
        self._format = {"common": format_common, "json": format_json}[kind]
        self._out = out

    def __call__(
        self, request: Request | None, status: int, sent: int, seconds: float, peer: str
    ) -> None:
        try:
            self._out.write(self._format(request, status, sent, seconds, peer) + "\n")
            self._out.flush()
        except (OSError, ValueError):
            pass  # the reader of the log is gone; the server continues


def target_of(request: Request) -> str:
    """The request target, encoded again: it may be written differently than the client did."""
    path = quote(request.path, errors="surrogateescape")
    return f"{path}?{urlencode(request.query, errors='replace')}" if request.query else path


def format_common(
    request: Request | None, status: int, sent: int, seconds: float, peer: str
) -> str:
    """A line in the Common Log Format."""
    line = f"{request.method} {target_of(request)} HTTP/1.1" if request is not None else "-"
    user = quote(user_of(request)) if request is not None and status != 401 else ""
    now = time.strftime("%d/%b/%Y:%H:%M:%S %z")
    return f'{peer or "-"} - {user or "-"} [{now}] "{line}" {status} {sent or "-"}'


def format_json(request: Request | None, status: int, sent: int, seconds: float, peer: str) -> str:
    """A line of JSON."""
    fields = {
        "time": round(time.time(), 3),
        "client": peer,
        "user": user_of(request) if request is not None and status != 401 else "",
        "method": request.method if request is not None else None,
        "target": target_of(request) if request is not None else None,
        "status": status,
        "bytes": sent,
        "seconds": round(seconds, 6),
    }
    return json.dumps(fields)
