"""The SHA-256 that came with a body, or that is asked for (RFC 9530)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re

from noria.http.messages import Headers, HTTPException
from noria.http.worker_threads import run_in_thread

KEPT = 1000  # digests kept in memory
BLOCK = 1024 * 1024  # bytes hashed at a time

_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([^:]*):")


def expected(headers: Headers) -> bytes | None:
    """Of `X-Checksum-Sha256` (hex), `Repr-Digest` or `Content-Digest`. Raises HTTPException."""
    found = None
    for name in ("repr-digest", "content-digest"):
        match = _SHA256.search(headers.get(name))
        if match is not None:
            found = _same(found, _decoded(match[1], name))
    text = headers.get("x-checksum-sha256").strip()
    if text:
        found = _same(found, parse(text))
    return found


def parse(text: str) -> bytes:
    """The digest written in hexadecimal. Raises HTTPException."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise HTTPException(400, "X-Checksum-Sha256 is 64 hexadecimal digits.")
    return value


def _decoded(text: str, name: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        value = b""
    if len(value) != 32:
        raise HTTPException(400, f"{name}: sha-256 is 32 bytes in base64, between colons.")
    return value


def _same(one: bytes | None, other: bytes) -> bytes:
    if one is not None and one != other:
        raise HTTPException(400, "The checksums of the body contradict each other.")
    return other


class Known:
    """The digests of files, kept by entity tag; one file is read for it at a time."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}
        self._reading = asyncio.Semaphore(1)  # else a few large files would hold all threads

    async def of(self, fd: int, tag: str) -> str:
        """As in Repr-Digest, of an open file with this tag."""
        async with self._reading:
            if tag not in self._kept:
                while len(self._kept) >= KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[tag] = await run_in_thread(of_file, fd)
            return self._kept[tag]


def of_file(fd: int) -> str:
    """As in Repr-Digest, of an open file; its offset is left alone."""
    digest, at = hashlib.sha256(), 0
    while block := os.pread(fd, BLOCK, at):
        digest.update(block)
        at += len(block)
    return f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
