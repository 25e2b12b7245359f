"""Parsers for everything that a server sends: header fields, URLs and listings.

No other module of transfer parses what a server sent. If a malformed value is required for the
transfer, the parser raises BadResponse. If it is only a hint (a date, a checksum, an ETag,
Retry-After), it is ignored, as RFC 9110 recommends.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from noria.http import digests
from noria.transfer.errors import BadResponse, TransferError

DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
MAX_DIGITS = 18  # of a number of bytes, which is below 2**63 then, like a file's offset
MAX_ETAG_CHARACTERS = 1024
MAX_RETRY_AFTER_SECONDS = 300.0
MAX_NAME_BYTES = 255  # NAME_MAX of Linux's file systems
MAX_LISTING_ENTRIES = 300_000  # about 32 MiB (MAX_LISTING_BYTES) with names of usual length

_DIGITS = f"([0-9]{{1,{MAX_DIGITS}}})"
_NUMBER = re.compile(_DIGITS)
_RANGE = re.compile(f"bytes {_DIGITS}-{_DIGITS}/{_DIGITS}")
_UNSATISFIED = re.compile(rf"bytes \*/{_DIGITS}")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')
_KEPT_KEYS = frozenset({"entries", "name", "type"})  # of a listing and its entries
_TOO_MANY_ENTRIES = "the listing has more than {:,} entries; fetch its directories separately"
_USER_INFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


# Numbers, dates, checksums, ETags


def number(text: str) -> int | None:
    """Return a number of bytes in ASCII digits, or None."""
    return int(text) if _NUMBER.fullmatch(text) else None


def content_length(response: httpx.Response) -> int | None:
    """Return the length of the body, or None if there is no Content-Length."""
    text = response.headers.get("content-length", "")
    if text and number(text) is None:
        raise BadResponse("the server sent a Content-Length that is not a number of bytes")
    return number(text)


@dataclass(frozen=True)
class ContentRange:
    """The part of a file in a 206 response: bytes `first` to `last` of `total`."""

    first: int
    last: int
    total: int


def content_range(response: httpx.Response) -> ContentRange | None:
    """Return the Content-Range of a 206 (RFC 9110, section 14.4); None if it is malformed."""
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if not found:
        return None
    first, last, total = (int(each) for each in found.groups())
    return ContentRange(first, last, total) if first <= last < total else None


def unsatisfied_range(response: httpx.Response) -> int | None:
    """Return the size of the file in the Content-Range of a 416, or None."""
    found = _UNSATISFIED.fullmatch(response.headers.get("content-range", ""))
    return int(found[1]) if found else None


def strong_etag(text: str) -> str:
    """Return the text if it is a strong ETag that a request can contain, else ""."""
    if len(text) <= MAX_ETAG_CHARACTERS and _STRONG_ETAG.fullmatch(text):
        return text
    return ""


def etag(response: httpx.Response) -> str:
    """Return the strong ETag, or "". A weak one does not identify bytes."""
    return strong_etag(response.headers.get("etag", ""))


def last_modified(response: httpx.Response) -> float | None:
    """Return Last-Modified in seconds since the epoch, or None."""
    try:
        return parsedate_to_datetime(response.headers.get("last-modified", "")[:64]).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def retry_after(text: str) -> float:
    """Return Retry-After in seconds, at most MAX_RETRY_AFTER_SECONDS; 0 for a date."""
    if not (text.isascii() and text.isdigit()):
        return 0.0
    return min(float(text[:MAX_DIGITS]), MAX_RETRY_AFTER_SECONDS)


def response_sha256(response: httpx.Response) -> str:
    """Return the SHA-256 of the whole file in hexadecimal, or "".

    It is in Repr-Digest (RFC 9530) or, in hexadecimal, in X-Checksum-Sha256.
    """
    try:
        sha256 = digests.parse_repr_digest(response.headers.get("repr-digest", ""))
        if sha256 is None:
            text = response.headers.get("x-checksum-sha256", "").strip()
            sha256 = digests.parse_hex_sha256(text)
    except ValueError:
        return ""
    return sha256.hex()


def content_encoding(response: httpx.Response) -> str:
    """Return the Content-Encoding in lower case, "" if there is none."""
    text = str(response.headers.get("content-encoding", "")).strip().lower()
    return "" if text == "identity" else text


# tus


def upload_offset(response: httpx.Response, size: int) -> int:
    """Return Upload-Offset: how many of an upload's `size` bytes the server has."""
    offset = number(response.headers.get("upload-offset", ""))
    if offset is None:
        raise BadResponse("the server sent no valid Upload-Offset, which tus 1.0 requires")
    if offset > size:
        raise BadResponse(f"the server claims to have {offset} bytes of a file of {size}")
    return offset


def tus_extensions(response: httpx.Response) -> frozenset[str] | None:
    """Return the extensions of tus 1.0 that the server supports, or None if it has no tus.

    "checksum" is included only if the server supports SHA-256.
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
    """Return an absolute http or https URL with a valid host. Raises ValueError."""
    try:
        urlsplit(text)  # is used on URLs elsewhere, where it must not fail
        url = httpx.URL(text)
        host, port = url.host, url.port  # decodes the host: IDNAError is a ValueError
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    if url.scheme not in DEFAULT_PORTS:
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
    """Raise TransferError unless `parse_url` accepts the text."""
    try:
        parse_url(text)
    except ValueError as error:
        raise TransferError(f"{redact_url(text)} is not a usable URL: {error}") from None


def redact_url(text: str) -> str:
    """Return a URL without the user and password in it. Accepts any text."""
    return _USER_INFO.sub(r"\1", text)


def location(response: httpx.Response) -> httpx.URL:
    """Return the absolute URL of Location. Raises BadResponse if it is missing or malformed."""
    text = response.headers.get("location", "")
    if not text:
        raise BadResponse("the server sent no Location, which this response requires")
    try:
        joined = response.request.url.join(text)
        return parse_url(str(joined))
    except (ValueError, httpx.InvalidURL) as error:
        raise BadResponse(f"the server's Location is not a usable URL: {error}") from None


async def check_redirect(response: httpx.Response) -> None:
    """Raise BadResponse for a redirect without a usable URL."""
    if response.status_code in REDIRECT_STATUSES and "location" in response.headers:
        location(response)


def same_origin(one: str, other: str) -> bool:
    """Whether both URLs have the same scheme, host and port. Logins are not sent elsewhere.

    False if one is not an http or https URL.
    """
    try:
        return _origin(one) == _origin(other)
    except ValueError:
        return False


def _origin(text: str) -> tuple[str, str, int]:
    url = parse_url(text)
    return url.scheme, url.host, url.port or DEFAULT_PORTS[url.scheme]


def is_directory_url(url: str) -> bool:
    """Whether the URL names a directory: no query, and its path is empty or ends in "/"."""
    parts = urlsplit(url)
    return not parts.query and (parts.path.endswith("/") or not parts.path)


# Names and listings


def local_name(name: bytes) -> str:
    """Return the local file name for a name in UTF-8 from a server or a URL.

    Raises TransferError unless it is a single name that a directory can contain.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        shown = name[:MAX_NAME_BYTES].decode("utf-8", "backslashreplace")
        raise TransferError(f"the server lists {shown!r}, which is not a valid file name: skipped")
    return os.fsdecode(name)


def url_file_name(url: str) -> str:
    """Return the last segment of a URL's path as a local file name; "" if it ends in "/".

    Raises TransferError for one that is not a file name: "..", or with an encoded "/" or NUL.
    """
    last = urlsplit(url).path.rpartition("/")[2]
    name = unquote_to_bytes(last.encode("utf-8", "surrogateescape"))
    try:
        return local_name(name) if name else ""
    except TransferError:
        raise TransferError("the URL does not end in a usable file name") from None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a listing: its name in a URL and as a local file, or why it is unusable."""

    name: bytes = b""
    local: str = ""
    is_directory: bool = False
    error: str = ""


def parse_listing(body: bytes) -> list[Entry]:
    """Return the entries of a JSON listing; a malformed entry has an error.

    Raises BadResponse if it is not a listing, or has more than MAX_LISTING_ENTRIES.
    """
    limit = MAX_LISTING_ENTRIES
    objects = 0

    def keep_entry(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal objects
        objects += 1
        if objects > limit + 1:  # the listing itself is an object too
            raise BadResponse(_TOO_MANY_ENTRIES.format(limit))
        return {key: value for key, value in pairs if key in _KEPT_KEYS}

    # Checked before parsing, as a value of two bytes may take 60 bytes in memory. The limits leave
    # room for commas and brackets in names.
    if body.count(b",") > 8 * limit or body.count(b"[") > 4 * limit:
        raise BadResponse(_TOO_MANY_ENTRIES.format(limit))
    try:
        found = json.loads(body, object_pairs_hook=keep_entry)
    except (ValueError, RecursionError):
        found = None
    entries = found.get("entries") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise BadResponse("the server did not send a JSON listing; is it noria serve files?")
    if len(entries) > limit:
        raise BadResponse(_TOO_MANY_ENTRIES.format(limit))
    return list(_entries(entries))


def _entries(found: list[object]) -> Iterator[Entry]:
    for each in found:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(each, dict) or not isinstance(name, str):
            yield Entry(error="the server lists an entry without a name: skipped")
            continue
        try:
            raw = name.encode("utf-8", "surrogateescape")
            if len(raw) > MAX_NAME_BYTES:
                raise TransferError(f"the server lists a name of {len(raw):,} bytes, and the limit "
                                    f"is {MAX_NAME_BYTES}: skipped")  # fmt: skip
            yield Entry(raw, local_name(raw), each.get("type") == "directory")
        except UnicodeEncodeError:
            start = name[:MAX_NAME_BYTES]
            yield Entry(error=f"the server lists {start!a}, which is not text: skipped")
        except TransferError as error:
            yield Entry(error=str(error))
