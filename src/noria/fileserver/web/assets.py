"""The static files of the page, served from the package."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.resources import files

from noria.http.conditional import etag_matches
from noria.http.messages import READ_METHODS, HTTPException, Request, Response

_responses: dict[str, Response] = {}


@cache
def _names() -> frozenset[str]:
    """The names of the static files. A name in a request is only used if it is one of them."""
    return frozenset(
        each.name for each in (files("noria.fileserver.web") / "static").iterdir() if each.is_file()
    )


def asset(request: Request, name: str) -> Response:
    """The response with a file of the directory `static`. Raises HTTPException 404, 405."""
    if request.method not in ("GET", "HEAD"):
        raise HTTPException(405, "Assets are read-only.", headers=[("Allow", READ_METHODS)])
    found = _responses.get(name)
    if found is None:
        if name not in _names():
            raise HTTPException(404, "There is no such asset.")
        body = (files("noria.fileserver.web") / "static" / name).read_bytes()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if kind.startswith("text/") or kind.endswith(("javascript", "json", "xml")):
            kind += "; charset=utf-8"
        headers = [
            ("Content-Type", kind),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "max-age=300"),
            ("ETag", f'"{hashlib.sha256(body).hexdigest()[:16]}"'),
        ]
        found = _responses[name] = Response(200, headers, body)
    tag = dict(found.headers)["ETag"]
    if etag_matches(request.headers.get("if-none-match"), tag, weak=True):
        return Response(304, found.headers[2:])
    return found
