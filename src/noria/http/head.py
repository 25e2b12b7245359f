"""Heads of requests and responses: checks, targets, fields, the Date field. No I/O, no parser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

from noria.http.messages import Headers, HTTPException, Request, Response

REASON_PHRASES = {int(status): status.phrase for status in HTTPStatus}
BODYLESS_STATUSES = (204, 304)  # RFC 9110, 6.4.1
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+;=%:\[\]-]*")
_AUTHORITY = re.compile(r"[^/?#@\\]+(?=[/?#]|$)")  # without user information: RFC 9110, 4.2.4
_FRAMING = ("host", "transfer-encoding", "content-length", "expect")


def parse_target(raw: bytes) -> tuple[str, dict[str, str]]:
    """The decoded path and the query of a request target (RFC 9112, section 3.2).

    Bytes that are not UTF-8 become surrogates (PEP 383), so such file names can be requested.
    Raises HTTPException 400.
    """
    text = raw.decode("latin-1")
    if not text.startswith("/"):
        scheme, separator, rest = text.partition("://")
        if text == "*":
            text = "/"
        elif separator and scheme.lower() in ("http", "https"):  # RFC 9112, 3.2.2
            authority = _AUTHORITY.match(rest)
            if authority is None:
                raise HTTPException(400, "The target of the request has no valid host.")
            text = rest[authority.end() :]
            if not text.startswith("/"):
                text = "/" + text
        else:
            raise HTTPException(
                400, "The target of the request must be a path that begins with '/'."
            )
    if "#" in text:
        raise HTTPException(400, "The target of a request must not contain a fragment ('#').")
    path, _, query = text.partition("?")
    if "%" in text and _ESCAPE.search(text):
        raise HTTPException(400, "In the target, '%' must be followed by two hexadecimal digits.")
    if "%" in path or not path.isascii():
        path = unquote(path.encode("latin-1").decode("utf-8", "surrogateescape"), "utf-8",
                       "surrogateescape")  # fmt: skip
    if not query:
        return path, {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise HTTPException(400, "The query must not have more than 100 parameters.") from None
    return path, dict(pairs)


def _authority(raw: bytes) -> str:
    """The host of a target in absolute form; "" if it has another form or is invalid."""
    if raw.startswith(b"/"):
        return ""
    _, separator, rest = raw.decode("latin-1").partition("://")
    authority = _AUTHORITY.match(rest)
    return authority[0] if separator and authority is not None else ""


def build_request(
    method: str,
    raw: bytes,
    version: str,
    fields: list[tuple[str, str]],
    peer: str,
    secure: bool,
    check_host: Callable[[str], object] | None = None,
) -> Request:
    """The request without its body. Raises HTTPException 400, 417, 501 or 505.

    `check_host`, if given, is called with the host; it raises HTTPException 421 if the server does
    not serve that name (RFC 9110, section 15.5.20).

    Two programs must not read different requests from the same bytes. So, as RFC 9112 requires,
    there is one Host field (3.2), and Transfer-Encoding is rejected together with Content-Length
    and in HTTP/1.0 (6.1, 6.3).
    """
    if version not in ("1.1", "1.0"):
        raise HTTPException(505, "The server supports HTTP/1.1 only.")
    headers = Headers(fields)
    found: dict[str, list[str]] = {}
    for name, value in headers.fields:
        if name in _FRAMING:
            found.setdefault(name, []).append(value)
    hosts = found.get("host", [])
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise HTTPException(400, "A request must have exactly one Host field.")
    if authority := _authority(raw):  # RFC 9112, 3.2.2: the Host field is ignored then
        hosts = [authority]
        headers.fields = [each for each in headers.fields if each[0] != "host"]
        headers.fields.append(("host", authority))
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise HTTPException(400, "The Host field must be the name of a host.")
    if hosts and check_host is not None:
        check_host(hosts[0])
    coding, lengths = found.get("transfer-encoding", []), found.get("content-length", [])
    if coding and lengths:
        raise HTTPException(
            400, "A request must not have both Transfer-Encoding and Content-Length."
        )
    if coding and version == "1.0":
        raise HTTPException(400, "A request in HTTP/1.0 must not have Transfer-Encoding.")
    codings = [each.strip(" \t").lower() for value in coding for each in value.split(",")]
    if codings and codings[-1] != "chunked":  # RFC 9112, 6.3
        raise HTTPException(400, "The last Transfer-Encoding of a request must be chunked.")
    if len(codings) > 1:
        raise HTTPException(501, "The only supported Transfer-Encoding is chunked.")
    if len(lengths) > 1 or (lengths and not (lengths[0].isascii() and lengths[0].isdigit())):
        raise HTTPException(400, "Content-Length must be one decimal number.")
    if method == "CONNECT":
        raise HTTPException(501, "CONNECT is not supported: the server is not a proxy.")
    if [one.lower() for one in found.get("expect", [])] not in ([], ["100-continue"]):
        raise HTTPException(417, "The only supported expectation is 100-continue.")
    if raw == b"*" and method != "OPTIONS":  # RFC 9112, 3.2.4
        raise HTTPException(400, "The target '*' is allowed for OPTIONS only.")
    path, query = parse_target(raw)
    length = int(lengths[0]) if lengths else None
    return Request(method, path, headers, query, length=length, peer=peer, secure=secure)


def format_head(status: int, fields: Iterable[tuple[str, str]]) -> bytes:
    """The head as it is sent. Raises ValueError if a field contains a line break."""
    lines = [f"HTTP/1.1 {status} {REASON_PHRASES.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in fields]
    text = "\n".join(lines)
    if text.count("\n") >= len(lines) or "\r" in text or "\0" in text:
        raise ValueError(f"a line break in a header field: {text!r}")
    return (text.replace("\n", "\r\n") + "\r\n\r\n").encode("latin-1")


class DateField:
    """The value of the Date field, formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._date = ""
        self._encoded = b""

    def text(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
            self._encoded = self._date.encode()
        return self._date

    def encoded(self) -> bytes:
        """The value as ASCII."""
        self.text()
        return self._encoded


def text_error_response(error: HTTPException) -> Response:
    """The response to an HTTPException, as plain text."""
    text = error.detail.encode("utf-8", "replace") + b"\n"
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    return Response(error.status, headers + error.headers, text)
