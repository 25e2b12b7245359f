"""Parsers for everything that a server sends: header fields, URLs and listings.

No other module of the client parses what a server sent. What a transfer cannot do without raises
BadResponse if it is malformed. What is only a hint (a date, a checksum, an ETag, Retry-After) is
ignored if it is malformed, as RFC 9110 recommends.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from noria.transfer.errors import BadResponse, Failure

PORTS = {"http": 80, "https": 443}
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_DIGITS = 18  # of a number of bytes: below 2**63, which is what a file's offset can be
MAX_ETAG_CHARACTERS = 1024
MAX_RETRY_AFTER_SECONDS = 300.0
MAX_NAME_BYTES = 255  # of Linux's file systems (NAME_MAX)
MAX_LISTING_ENTRIES = 300_000  # some 32 MiB (bodies.MAX_LISTING_BYTES) with names of usual length

_DIGITS = f"([0-9]{{1,{MAX_DIGITS}}})"
_NUMBER = re.compile(_DIGITS)
_RANGE = re.compile(f"bytes {_DIGITS}-{_DIGITS}/{_DIGITS}")
_UNSATISFIED = re.compile(rf"bytes \*/{_DIGITS}")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_REPR_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_USED_KEYS = frozenset({"entries", "name", "type"})  # of a listing and its entries
_TOO_MANY = "the listing has more than {:,} entries; fetch its directories separately"
_LOGIN = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


# Numbers, dates, checksums, ETags


def number(text: str) -> int | None:
    """A number of bytes in ASCII digits, or None."""
    return int(text) if _NUMBER.fullmatch(text) else None


def content_length(response: httpx.Response) -> int | None:
    """The length of the body, or None if the server does not say."""
    text = response.headers.get("content-length", "")
    if text and number(text) is None:
        raise BadResponse("the server sends a Content-Length that is not a number of bytes")
    return number(text)


@dataclass(frozen=True)
class ContentRange:
    """The part that a 206 carries: bytes `first` to `last` of `total`."""

    first: int
    last: int
    total: int


def content_range(response: httpx.Response) -> ContentRange | None:
    """The Content-Range of a 206 (RFC 9110 section 14.4), or None if it is malformed."""
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if not found:
        return None
    first, last, total = (int(each) for each in found.groups())
    return ContentRange(first, last, total) if first <= last < total else None


def unsatisfied_range(response: httpx.Response) -> int | None:
    """The size of the file that a 416 states, or None."""
    found = _UNSATISFIED.fullmatch(response.headers.get("content-range", ""))
    return int(found[1]) if found else None


def strong_etag(text: str) -> str:
    """`text` if it is a strong ETag that can be sent back in a header field, else ""."""
    if len(text) <= MAX_ETAG_CHARACTERS and _STRONG_ETAG.fullmatch(text):
        return text
    return ""


def etag(response: httpx.Response) -> str:
    """The strong ETag of the representation, or ""; a weak one says nothing of bytes."""
    return strong_etag(response.headers.get("etag", ""))


def last_modified(response: httpx.Response) -> float | None:
    """Last-Modified in seconds since the epoch, or None."""
    try:
        return parsedate_to_datetime(response.headers.get("last-modified", "")[:64]).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def retry_after(text: str) -> float:
    """Retry-After in seconds, five minutes at most; a date counts as 0."""
    if not (text.isascii() and text.isdigit()):
        return 0.0
    return min(float(text[:MAX_DIGITS]), MAX_RETRY_AFTER_SECONDS)


def sha256(response: httpx.Response) -> str:
    """The SHA-256 of the whole file in hexadecimal, or "".

    It is in Repr-Digest (RFC 9530), or in hexadecimal in X-Checksum-Sha256.
    """
    if found := _REPR_DIGEST.search(response.headers.get("repr-digest", "")):
        try:
            text = base64.b64decode(found[1], validate=True).hex()
        except binascii.Error:
            return ""
    else:
        text = str(response.headers.get("x-checksum-sha256", "")).strip().lower()
    return text if _SHA256.fullmatch(text) else ""


def content_encoding(response: httpx.Response) -> str:
    """The coding of the body in lower case; "" if it has none."""
    text = str(response.headers.get("content-encoding", "")).strip().lower()
    return "" if text == "identity" else text


# tus


def upload_offset(response: httpx.Response, size: int) -> int:
    """Upload-Offset: how many of the `size` bytes of an upload the server has."""
    offset = number(response.headers.get("upload-offset", ""))
    if offset is None:
        raise BadResponse("the server sends no valid Upload-Offset: it does not follow tus 1.0")
    if offset > size:
        raise BadResponse(f"the server claims {offset} bytes of a file that has {size}")
    return offset


def tus_extensions(response: httpx.Response) -> frozenset[str] | None:
    """The extensions of tus 1.0 that the server offers, or None if it does not speak tus.

    "checksum" is among them only if the server knows SHA-256.
    """
    if "1.0.0" not in response.headers.get("tus-version", ""):
        return None
    names = response.headers.get("tus-extension", "").split(",")
    found = frozenset(name.strip() for name in names)
    if "sha256" not in response.headers.get("tus-checksum-algorithm", ""):
        found -= {"checksum"}
    return found if "creation" in found else None


# URLs


def parse_url(text: str) -> httpx.URL:
    """An absolute URL of HTTP that a connection can be made to.

    Raises ValueError that says what is wrong with it.
    """
    try:
        urlsplit(text)  # the other parser that this client uses must not stumble over it later
        url = httpx.URL(text)
        host, port = url.host, url.port  # decodes the host: IDNAError is a ValueError
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    if url.scheme not in PORTS:
        raise ValueError("it does not begin with http:// or https://")
    if not host:
        raise ValueError("it names no host")
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{port} is not a port")
    name = url.raw_host.decode("ascii")
    labels = name.removesuffix(".").split(".")
    # Python's getaddrinfo raises UnicodeError for labels that DNS cannot have.
    if len(name) > 253 or not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"{name[:80]!r} is not a host name")
    return url


def require_url(text: str) -> None:
    """Raises Failure unless `text` is a URL as of `parse_url`."""
    try:
        parse_url(text)
    except ValueError as error:
        raise Failure(f"{shown(text)} is not a usable URL: {error}") from None


def shown(text: str) -> str:
    """A URL without a user's name and password in it. Takes any text."""
    return _LOGIN.sub(r"\1", text)


def location(response: httpx.Response) -> httpx.URL:
    """The absolute URL that Location leads to. Raises BadResponse without one."""
    text = response.headers.get("location", "")
    if not text:
        raise BadResponse("the server sends no Location, which should name where to go on")
    try:
        joined = response.request.url.join(text)
        return parse_url(str(joined))
    except (ValueError, httpx.InvalidURL) as error:
        raise BadResponse(f"the server's Location is not a usable URL: {error}") from None


async def check_redirect(response: httpx.Response) -> None:
    """Raises BadResponse for a redirect that leads to no usable URL."""
    if response.status_code in REDIRECT_STATUSES and "location" in response.headers:
        location(response)


def same_origin(one: str, other: str) -> bool:
    """Whether both URLs have the same scheme, host and port: logins are sent nowhere else.

    False if one is no URL of HTTP.
    """
    try:
        return _origin(one) == _origin(other)
    except ValueError:
        return False


def _origin(text: str) -> tuple[str, str, int]:
    url = parse_url(text)
    return url.scheme, url.host, url.port or PORTS[url.scheme]


# Names and listings


def local_name(name: bytes) -> str:
    """The name of a local file for one that a server or a URL gives, which is UTF-8.

    Raises Failure unless it is one plain name in a directory.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        shown = name[:MAX_NAME_BYTES].decode("utf-8", "backslashreplace")
        raise Failure(f"the server gives {shown!r} as a file's name, which it cannot be: skipped")
    return os.fsdecode(name)


def last_name(url: str) -> str:
    """The name that the path of a URL ends in, as a local file name; "" if it ends in "/".

    Raises Failure for one that is no file name: "..", or with a "/" or NUL hidden in it.
    """
    last = urlsplit(url).path.rpartition("/")[2]
    name = unquote_to_bytes(last.encode("utf-8", "surrogateescape"))
    try:
        return local_name(name) if name else ""
    except Failure:
        raise Failure("the URL does not end in a usable name") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a directory: its name in a URL and as a local file, or what is wrong with it."""

    name: bytes = b""
    local: str = ""
    is_directory: bool = False
    problem: str = ""


def listing(body: bytes) -> list[Entry]:
    """The entries of a directory from its listing as JSON; a malformed one has a problem.

    Raises BadResponse if it is no listing, or has more than MAX_LISTING_ENTRIES.
    """
    limit = MAX_LISTING_ENTRIES
    objects = 0

    def entry(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal objects
        objects += 1
        if objects > limit + 1:  # the listing is one too
            raise BadResponse(_TOO_MANY.format(limit))
        return {key: value for key, value in pairs if key in _USED_KEYS}

    # Before it is parsed: a value of two bytes may be an object of 60 in memory. Commas and
    # brackets of names count too, for which there is room.
    if body.count(b",") > 8 * limit or body.count(b"[") > 4 * limit:
        raise BadResponse(_TOO_MANY.format(limit))
    try:
        found = json.loads(body, object_pairs_hook=entry)
    except (ValueError, RecursionError):
        found = None
    entries = found.get("entries") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise BadResponse("the server gives no listing as JSON; is it noria serve files?")
    if len(entries) > limit:
        raise BadResponse(_TOO_MANY.format(limit))
    return list(_entries(entries))


def _entries(found: list[object]) -> Iterator[Entry]:
    for each in found:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(each, dict) or not isinstance(name, str):
            yield Entry(problem="the server lists an entry without a name: skipped")
            continue
        try:
            raw = name.encode("utf-8", "surrogateescape")
            if len(raw) > MAX_NAME_BYTES:
                raise Failure(f"the server gives a file's name of {len(raw):,} bytes, of which "
                              f"there can be {MAX_NAME_BYTES}: skipped")  # fmt: skip
            yield Entry(raw, local_name(raw), each.get("type") == "directory")
        except UnicodeEncodeError:
            start = name[:MAX_NAME_BYTES]
            yield Entry(problem=f"the server gives {start!a} as a file's name, which is no text: "
                        "skipped")  # fmt: skip
        except Failure as error:
            yield Entry(problem=str(error))
