"""Fuzz targets: parsers of untrusted bytes, each with its invariants.

A target takes bytes and returns, or raises an error that its parser documents for bad input.
`run.py` searches for inputs that break one; `test_parsers.py` runs each on the kept corpus.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from noria.fileserver import allowed_hosts, request_paths
from noria.fileserver.tus.fields import destination_of
from noria.http import conditional, digests, framing, head, multipart, ranges
from noria.http.messages import Headers, HTTPException
from noria.transfer import parsers
from noria.transfer.errors import TransferError

TARGETS: dict[str, Callable[[bytes], None]] = {}

# One byte each, as the HTTP parser decodes header fields. A field has no CR, LF or NUL.
FIELD = re.compile(r"[^\r\n\0]*")


def target(function: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Register a target under its name."""
    TARGETS[function.__name__] = function
    return function


def field(data: bytes) -> str:
    """Return the value of a header field that begins with these bytes."""
    found = FIELD.match(data.decode("latin-1"))
    assert found is not None
    return found[0].strip()


def response(**fields: str) -> Any:
    """Return a stub response for the parsers of `noria.transfer`."""
    return SimpleNamespace(headers={name.replace("_", "-"): text for name, text in fields.items()})


@target
def request_target(data: bytes) -> None:
    """An accepted request target is a path whose segments are single file names."""
    with contextlib.suppress(HTTPException):
        path, query = head.parse_target(data)
        assert path.startswith("/")
        assert len(query) <= 100
        for name in request_paths.split_path(path):
            assert name not in ("", ".", "..")
            assert not set("/\\\0\r\n") & set(name)
            assert not name.startswith(request_paths.RESERVED_NAME_PREFIX)
            assert len(name.encode()) <= request_paths.NAME_MAX


@target
def request_fields(data: bytes) -> None:
    """An accepted request has at most one Host and no ambiguous length."""
    lines = data.split(b"\n")
    pairs = [line.partition(b":") for line in lines[1:]]
    fields = [(field(name).lower(), field(value)) for name, _, value in pairs]
    with contextlib.suppress(HTTPException):
        request = head.build_request("PUT", lines[0], "1.1", fields, "127.0.0.1", False)
        names = [name for name, _ in request.headers.fields]
        assert names.count("host") == 1
        assert names.count("content-length") <= 1
        assert not {"content-length", "transfer-encoding"} <= set(names)


@target
def request_line(data: bytes) -> None:
    """The check returns the same result for any division of the bytes."""

    def check(pieces: list[bytes]) -> str:
        seen: bytes | None = b""
        try:
            for piece in pieces:
                assert seen is not None
                seen = framing.check_request_line(seen, piece)
                if seen is None:
                    return "valid"
        except HTTPException as error:
            return str(error.status)
        return "unfinished"

    whole = check([data])
    assert check([data[at : at + 1] for at in range(len(data))]) == whole or not data
    half = len(data) // 2
    assert check([data[:half], data[half:]]) == whole


@target
def chunked_body(data: bytes) -> None:
    """A body whose bytes arrive one by one does not end earlier."""
    whole = framing.ChunkedBody()
    end = whole.find_end(data, 0)
    assert 0 <= end <= len(data)
    body = framing.ChunkedBody()
    for at in range(0 if whole.malformed else end):
        assert body.find_end(data[at : at + 1], 0) == 1
        assert not body.malformed


@target
def byte_ranges(data: bytes) -> None:
    """Accepted ranges lie within the file and do not overlap."""
    size = int.from_bytes(data[:3], "little")
    with contextlib.suppress(HTTPException):
        found = ranges.parse_range(field(data[3:]), size)
        end = 0
        for offset, length in sorted(found or []):
            assert offset >= end
            assert length > 0
            end = offset + length
            assert end <= size


@target
def conditions(data: bytes) -> None:
    """Any entity tags and dates are parsed without an exception."""
    text = field(data)
    for _, tag in conditional.parse_etags(text):
        assert tag.startswith('"')
        assert tag.endswith('"')
    conditional.etag_matches(text, '"a"', weak=True)
    seconds = conditional.parse_http_date(text)
    if seconds is not None:
        conditional.http_date(seconds)


@target
def digest_fields(data: bytes) -> None:
    """An accepted digest has 32 bytes."""
    lines = [*data.split(b"\n", 2), b"", b""]
    names = ("repr-digest", "content-digest", "x-checksum-sha256")
    headers = Headers(list(zip(names, map(field, lines), strict=False)))
    with contextlib.suppress(HTTPException):
        found = digests.request_sha256(headers)
        assert found is None or len(found) == 32


@target
def form(data: bytes) -> None:
    """A form has the same parts for any division of its bytes."""

    async def parts(size: int) -> list[tuple[str | None, bytes]] | int:
        async def chunks() -> AsyncIterator[bytes]:
            for at in range(0, len(data), size):
                yield data[at : at + size]

        found = []
        try:
            async for part in multipart.MultipartForm(chunks(), b"x").parts():
                name = part.disposition_parameter("filename")
                found.append((name, b"".join([block async for block in part])))
        except HTTPException as error:
            return error.status
        return found

    def run(size: int) -> list[tuple[str | None, bytes]] | int:
        steps = parts(size)
        try:
            steps.send(None)
        except StopIteration as end:
            result: list[tuple[str | None, bytes]] | int = end.value
            return result
        raise AssertionError("the form parser awaited something")

    assert run(1) == run(len(data) or 1)


@target
def form_boundary(data: bytes) -> None:
    """An accepted boundary has 1 to 70 bytes."""
    with contextlib.suppress(HTTPException):
        found = multipart.parse_boundary("multipart/form-data; " + field(data))
        assert 0 < len(found) <= 70


@target
def tus_metadata(data: bytes) -> None:
    """An upload's destination is a valid request path."""
    with contextlib.suppress(HTTPException):
        assert request_paths.split_path(destination_of(field(data)))


@target
def host_field(data: bytes) -> None:
    """A host that is not configured is rejected, whatever bytes it contains."""
    name = field(data)
    hosts = allowed_hosts.AllowedHosts(["files.example"])
    hosts.allows(name)
    assert not hosts.allows(f"evil.{name.partition(':')[0]}.example")


@target
def response_fields(data: bytes) -> None:
    """Response fields are parsed, or rejected with a transfer error."""
    text = field(data)
    with contextlib.suppress(TransferError):
        length = parsers.content_length(response(content_length=text))
        assert length is None or length >= 0
    part = parsers.content_range(response(content_range=text))
    assert part is None or 0 <= part.first <= part.last < part.total
    parsers.unsatisfied_range(response(content_range=text))
    tag = parsers.etag(response(etag=text))
    assert "\r" not in tag
    parsers.last_modified(response(last_modified=text))
    assert 0 <= parsers.retry_after(text) <= parsers.MAX_RETRY_AFTER_SECONDS
    assert len(parsers.response_sha256(response(repr_digest=text, x_checksum_sha256=text))) in (
        0,
        64,
    )
    with contextlib.suppress(TransferError):
        assert 0 <= parsers.upload_offset(response(upload_offset=text), 1000) <= 1000
    parsers.tus_extensions(response(tus_version="1.0.0", tus_extension=text))


@target
def directory_listing(data: bytes) -> None:
    """An accepted entry names one file in one directory."""
    with contextlib.suppress(TransferError):
        for entry in parsers.parse_listing(data):
            if not entry.error:
                assert entry.local not in ("", ".", "..")
                assert not {"/", "\0"} & set(entry.local)


@target
def urls(data: bytes) -> None:
    """An accepted URL can be shown without its password, and its last segment is a file name."""
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(ValueError):
        url = str(parsers.parse_url(text))
        assert parsers.same_origin(url, url)
        with contextlib.suppress(TransferError):
            assert "/" not in parsers.url_file_name(url)
    parsers.redact_url(text)
