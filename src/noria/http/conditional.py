"""Entity tags, dates, and conditional requests (RFC 9110, sections 8.8 and 13)."""

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
    """The fields of os.stat_result from which an entity tag and a date are derived."""

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
    """A strong entity tag. It differs after each change that the file system's clock resolves."""
    facts = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
    return f'"{blake2b(facts.encode(), digest_size=12).hexdigest()}"'


def http_date(seconds: float) -> str:
    """A date as in ``Last-Modified``, in whole seconds, clamped to the years 1 to 9999."""
    return _http_date(min(max(int(seconds), MIN_TIMESTAMP), MAX_TIMESTAMP))


@lru_cache(1024)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def parse_http_date(date: str) -> int | None:
    """An HTTP date in seconds since the epoch; None if it is invalid."""
    try:
        return int(parsedate_to_datetime(date).timestamp())
    except (TypeError, ValueError, OverflowError):
        return None


def parse_etags(value: str) -> list[tuple[bool, str]]:
    """(weak, tag) for each entity tag in a list, up to the first invalid one."""
    found, at = [], 0
    while match := _TAG.match(value, at):
        found.append((bool(match[1]), match[2]))
        at = match.end()
    return found


def etag_matches(value: str, tag: str, *, weak: bool = False) -> bool:
    """Whether the strong entity tag `tag` is in the list `value`, or the list is "*".

    `weak` selects weak comparison: weak tags in the list match too (RFC 9110, section 8.8.3.2).
    """
    if value.strip() == "*":
        return True
    return any(other == tag and (weak or not is_weak) for is_weak, other in parse_etags(value))


def require_preconditions(headers: Headers, status: os.stat_result | None) -> None:
    """Check If-Match and If-None-Match before a change.

    `status` is None if the file does not exist. Raises HTTPException 412.
    """
    wanted, unwanted = headers.get("if-match"), headers.get("if-none-match")
    if wanted and (status is None or not etag_matches(wanted, etag(status))):
        raise HTTPException(412, "The file does not match If-Match: it was changed or removed.")
    if unwanted and status is not None and etag_matches(unwanted, etag(status), weak=True):
        raise HTTPException(412, "The file exists, and If-None-Match requires that it does not.")


def evaluate_preconditions(headers: Headers, status: os.stat_result) -> int:
    """The status for a GET or HEAD: 200, 304 or 412, evaluated as in RFC 9110, section 13.2.2."""
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
    """Whether If-Range, if present, matches the file (RFC 9110, section 13.1.5)."""
    value = headers.get("if-range").strip()
    if not value:
        return True
    if value.startswith(('"', "W/")):
        return value == etag(status)
    # A date is a strong validator only if the file was not changed soon after it (8.8.2.2).
    return value == http_date(status.st_mtime) and time.time() - status.st_mtime > 2
