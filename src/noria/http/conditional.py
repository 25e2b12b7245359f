"""Entity tags, dates, and the conditions of a request on them (RFC 9110, sections 8.8 and 13)."""

from __future__ import annotations

import os
import re
import time
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol

from noria.http.messages import Headers, HTTPException

_TAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')

# The first second of year 1 and the last of year 9999, in seconds since the epoch.
MIN_TIMESTAMP, MAX_TIMESTAMP = -62135596800, 253402300799

_CONDITIONS = {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"}


class FileStatus(Protocol):
    """What an entity tag is made of, and a date: of os.stat_result or the like."""

    @property
    def st_ino(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_mtime(self) -> float: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...


def etag(status: FileStatus) -> str:
    """A strong tag: another one for every change that the file system's clock can tell apart."""
    facts = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
    return f'"{blake2b(facts.encode(), digest_size=12).hexdigest()}"'


def http_date(seconds: float) -> str:
    """As in ``Last-Modified``: whole seconds, GMT; the nearest year of four digits."""
    return _http_date(min(max(int(seconds), MIN_TIMESTAMP), MAX_TIMESTAMP))


@lru_cache(1024)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def parse_http_date(date: str) -> int | None:
    """Seconds since the epoch of an HTTP date; None if it is none."""
    try:
        return int(parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError, OverflowError):
        return None


def parse_etags(value: str) -> list[tuple[bool, str]]:
    """(weak, tag) of each in a list of entity tags; what is none ends it."""
    found, at = [], 0
    while match := _TAG.match(value, at):
        found.append((bool(match[1]), match[2]))
        at = match.end()
    return found


def etag_matches(value: str, tag: str, *, weak: bool = False) -> bool:
    """Whether `tag`, which is strong, is in the list; "*" is any. `weak`: weak ones count too."""
    if value.strip() == "*":
        return True
    return any(other == tag and (weak or not is_weak) for is_weak, other in parse_etags(value))


def require_preconditions(headers: Headers, status: os.stat_result | None) -> None:
    """If-Match and If-None-Match before a change; `status` None: it does not exist. Raises 412."""
    wanted, unwanted = headers.get("if-match"), headers.get("if-none-match")
    if wanted and (status is None or not etag_matches(wanted, etag(status))):
        raise HTTPException(412, "It is not what If-Match names: it was changed or is gone.")
    if unwanted and status is not None and etag_matches(unwanted, etag(status), weak=True):
        raise HTTPException(412, "It exists, and If-None-Match asks that it does not.")


def evaluate_preconditions(headers: Headers, status: os.stat_result) -> int:
    """Of a GET or HEAD: 200 to go on, 304, or 412; in the order of RFC 9110, 13.2.2."""
    if _CONDITIONS.isdisjoint(name for name, _ in headers.fields):
        return 200
    tag = etag(status)
    if wanted := headers.get("if-match"):
        if not etag_matches(wanted, tag):
            return 412
    elif since := headers.get("if-unmodified-since"):
        limit = parse_http_date(since)
        if limit is not None and int(status.st_mtime) > limit:
            return 412
    if unwanted := headers.get("if-none-match"):
        return 304 if etag_matches(unwanted, tag, weak=True) else 200
    if since := headers.get("if-modified-since"):
        limit = parse_http_date(since)
        if limit is not None and int(status.st_mtime) <= limit:
            return 304
    return 200


def if_range_matches(headers: Headers, status: os.stat_result) -> bool:
    """If-Range: whether the part that the client has is of this very file (RFC 9110, 13.1.5)."""
    value = headers.get("if-range").strip()
    if not value:
        return True
    if value.startswith(('"', "W/")):
        return value == etag(status)
    # A date is strong only if the file has rested since: 8.8.2.2.
    return value == http_date(status.st_mtime) and time.time() - status.st_mtime > 2
