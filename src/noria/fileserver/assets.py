"""The page's own files, out of the package."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from importlib.resources import files

from noria.fileserver.conditions import matches
from noria.fileserver.messages import READING, Problem, Request, Response

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_kept: dict[str, Response] = {}


def asset(request: Request, name: str) -> Response:
    """A file of the directory `assets`; raises Problem 404 and 405."""
    if request.method not in ("GET", "HEAD"):
        raise Problem(405, "Assets can only be read.", headers=[("Allow", READING)])
    found = _kept.get(name)
    if found is None:
        place = files("noria.fileserver") / "assets" / name
        if not _NAME.fullmatch(name) or not place.is_file():
            raise Problem(404, "There is no such asset.")
        body = place.read_bytes()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if kind.startswith("text/") or kind.endswith(("javascript", "json", "xml")):
            kind += "; charset=utf-8"
        headers = [
            ("Content-Type", kind),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "max-age=300"),
            ("ETag", f'"{hashlib.sha256(body).hexdigest()[:16]}"'),
        ]
        found = _kept[name] = Response(200, headers, body)
    tag = dict(found.headers)["ETag"]
    if matches(request.headers.get("if-none-match"), tag, weak=True):
        return Response(304, found.headers[2:])
    return found
