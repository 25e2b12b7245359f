"""SHA-256 of files, and as HTTP sends it: Repr-Digest (RFC 9530)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

BLOCK_BYTES = 1 << 20  # read at a time


class Stopped(Exception):
    """The caller was cancelled, and nothing waits for the result."""


def header(digest: bytes) -> str:
    """A Repr-Digest field's value."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def of_file(
    path: Path, size: int | None = None, stop: threading.Event | None = None
) -> hashlib._Hash:
    """The SHA-256 of a file, or of its first `size` bytes, to which more can be added.

    Raises Stopped soon after `stop` is set.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return of_descriptor(fd, size, stop)
    finally:
        os.close(fd)


def of_descriptor(
    fd: int, size: int | None = None, stop: threading.Event | None = None
) -> hashlib._Hash:
    """As `of_file`, of an open file, whose position stays as it is."""
    sum = hashlib.sha256()
    at = 0
    while size is None or at < size:
        if stop is not None and stop.is_set():
            raise Stopped
        block = os.pread(fd, BLOCK_BYTES if size is None else min(size - at, BLOCK_BYTES), at)
        if not block:
            break
        sum.update(block)
        at += len(block)
    return sum


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """What `function(*args, stop=...)` returns, run in a worker thread.

    If cancelled, `stop` is set: the process cannot end before its worker threads.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(function, *args, stop=stop)
    finally:
        stop.set()
