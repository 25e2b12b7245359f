"""Header fields that the file service reads: conditions, Destination, Origin."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from noria.fileserver.request_paths import require_target_path
from noria.http.messages import Headers, HTTPException


def conditions_from(if_match: str, if_none_match: str = "") -> Headers:
    """Headers with these two conditions, where they are not empty."""
    fields = [("if-match", if_match), ("if-none-match", if_none_match)]
    return Headers((name, value) for name, value in fields if value)


def require_same_site(headers: Headers) -> None:
    """Raise HTTPException 403 if a browser sent the request from a page of another site."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site:  # set by the browser itself; right behind a proxy that rewrites Host, too
        cross_site = site not in ("same-origin", "none")
    else:
        cross_site = origin != "" and _host(origin) != (headers.get("host").lower() or None)
    if cross_site:
        raise HTTPException(403, "A page of another site may not change files here.")


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def destination(headers: Headers) -> str:
    """The decoded path of the field Destination (RFC 4918, 10.3). Raises HTTPException."""
    value = headers.get("destination").strip()
    if not value:
        raise HTTPException(400, "MOVE needs the new path in the header Destination.")
    try:
        parts = urlsplit(value)
        path = unquote(parts.path, errors="strict")
    except ValueError:
        raise HTTPException(400, "Destination is not a valid URL.") from None
    if parts.netloc and parts.netloc.lower() != headers.get("host").lower():
        raise HTTPException(502, "Destination is on another server.")
    if parts.query or parts.fragment:
        raise HTTPException(400, 'Destination must be a path: write "?" as %3F and "#" as %23.')
    require_target_path(path)
    return path
