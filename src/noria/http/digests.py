"""SHA-256 digests in header fields (RFC 9530), and of files."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
import threading

from noria.http.messages import Headers, HTTPException
from noria.http.worker_threads import run_in_thread

MAX_CACHED_DIGESTS = 1000
BLOCK_BYTES = 1024 * 1024  # hashed at a time

# RFC 9651, section 3: a Dictionary, without the value of the member.
_KEY = "[a-z*][a-z0-9_.*-]*"
_BARE_ITEM = (
    r'(?::[^:]*:|%?"(?:[^"\\]|\\.)*"|@?-?[0-9]+(?:\.[0-9]+)?|\?[01]'
    r"|[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*)"
)
_PARAMETERS = f"(?:; *{_KEY}(?:={_BARE_ITEM})?)*"
_INNER_LIST = rf"\( *(?:{_BARE_ITEM}{_PARAMETERS}(?: +|(?=\))))*\)"
_MEMBER = re.compile(f"({_KEY})(?:=({_BARE_ITEM}|{_INNER_LIST}))?{_PARAMETERS}")
_COMMA = re.compile("[ \t]*,[ \t]*")
_HEX_SHA256 = re.compile("[0-9a-fA-F]{64}")


class HashingStopped(Exception):
    """The caller no longer needs the digest."""


# Header fields


def format_repr_digest(sha256: bytes) -> str:
    """Return the value of a Repr-Digest field."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def parse_repr_digest(text: str) -> bytes | None:
    """Return the SHA-256 of a Repr-Digest or Content-Digest field, None if it has none.

    The field is a Dictionary of RFC 9651: keys are in lower case, and of members with the same key
    the last one counts. A field that is not a Dictionary is ignored, as section 4.2 demands.
    Raises ValueError if the value of sha-256 is not a digest.
    """
    found: str | None = None
    position = 0
    text = text.strip(" ")
    while True:
        member = _MEMBER.match(text, position)
        if member is None:
            return None
        if member[1] == "sha-256":
            found = member[2] or ""
        position = member.end()
        if position == len(text):
            break
        comma = _COMMA.match(text, position)
        if comma is None:
            return None
        position = comma.end()
    return None if found is None else _decode_byte_sequence(found)


def _decode_byte_sequence(text: str) -> bytes:
    """Return the SHA-256 in a Byte Sequence. Its padding may be missing (RFC 9651, 4.2.7)."""
    value = b""
    if len(text) >= 2 and text[0] == text[-1] == ":":
        encoded = text[1:-1].rstrip("=")
        try:
            value = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            value = b""
    if len(value) != 32:
        raise ValueError("sha-256 is 32 bytes in base64, between colons")
    return value


def parse_hex_sha256(text: str) -> bytes:
    """Return the SHA-256 written as 64 hexadecimal digits. Raises ValueError."""
    if not _HEX_SHA256.fullmatch(text):
        raise ValueError("a SHA-256 is 64 hexadecimal digits")
    return bytes.fromhex(text)


def require_hex_sha256(text: str) -> bytes:
    """Return what `parse_hex_sha256` does. Raises HTTPException."""
    try:
        return parse_hex_sha256(text)
    except ValueError:
        raise HTTPException(400, "X-Checksum-Sha256 is 64 hexadecimal digits.") from None


def request_sha256(headers: Headers) -> bytes | None:
    """Return the SHA-256 that a request has for its body, None if it has none.

    It is in `Repr-Digest`, `Content-Digest` or `X-Checksum-Sha256` (hexadecimal). Raises
    HTTPException if one is malformed or two differ.
    """
    found = set()
    for name in ("repr-digest", "content-digest"):
        try:
            value = parse_repr_digest(headers.get(name))
        except ValueError as error:
            raise HTTPException(400, f"{name}: {error}.") from None
        if value is not None:
            found.add(value)
    if text := headers.get("x-checksum-sha256").strip():
        found.add(require_hex_sha256(text))
    if len(found) > 1:
        raise HTTPException(400, "The checksums of the body contradict each other.")
    return found.pop() if found else None


# Files


def hash_file(
    fd: int, size: int | None = None, stop: threading.Event | None = None
) -> hashlib._Hash:
    """Return the SHA-256 of an open file, or of its first `size` bytes, as a hash object.

    More data can be added to it. The file's position does not change. Raises HashingStopped soon
    after `stop` is set.
    """
    sha256 = hashlib.sha256()
    offset = 0
    while size is None or offset < size:
        if stop is not None and stop.is_set():
            raise HashingStopped
        block = os.pread(fd, BLOCK_BYTES if size is None else min(size - offset, BLOCK_BYTES),
                         offset)  # fmt: skip
        if not block:
            break
        sha256.update(block)
        offset += len(block)
    return sha256


class DigestCache:
    """The digests of files by entity tag."""

    def __init__(self) -> None:
        self._cached: dict[str, str] = {}
        # One file at a time, or a few large files would occupy all worker threads.
        self._hashing = asyncio.Semaphore(1)

    async def repr_digest(self, fd: int, etag: str) -> str:
        """Return the Repr-Digest of an open file that has this entity tag."""
        async with self._hashing:
            if etag not in self._cached:
                while len(self._cached) >= MAX_CACHED_DIGESTS:
                    del self._cached[next(iter(self._cached))]
                sha256 = await run_in_thread(hash_file, fd)
                self._cached[etag] = format_repr_digest(sha256.digest())
            return self._cached[etag]
