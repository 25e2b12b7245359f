"""SHA-256 as HTTP sends it: Repr-Digest (RFC 9530), and X-Checksum-Sha256 in hexadecimal."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from pathlib import Path

import httpx

_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):", re.IGNORECASE)


def told(response: httpx.Response) -> str:
    """The SHA-256 that the server gives for the whole file, in hexadecimal, or ""."""
    if found := _SHA256.search(response.headers.get("repr-digest", "")):
        try:
            return base64.b64decode(found[1], validate=True).hex()
        except binascii.Error:
            return ""
    return str(response.headers.get("x-checksum-sha256", "")).strip().lower()


def header(digest: bytes) -> str:
    """A Repr-Digest field's value."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def of_file(path: Path, size: int | None = None) -> hashlib._Hash:
    """The SHA-256 of a file, or of its first `size` bytes; it can be carried on with."""
    sum = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        left = size
        while left is None or left > 0:
            block = file.read(1 << 20 if left is None else min(left, 1 << 20))
            if not block:
                break
            sum.update(block)
            left = None if left is None else left - len(block)
    return sum
