"""SHA-256 of files, and as HTTP sends it: Repr-Digest (RFC 9530)."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path


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
