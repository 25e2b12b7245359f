"""Long work in a worker thread that stops when the task is cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from noria.http.digests import hash_file

T = TypeVar("T")


async def run_stoppable(function: Callable[..., T], *args: Any) -> T:
    """Return `function(*args, stop=event)`, run in a worker thread.

    If the task is cancelled, the event is set: the process cannot exit before its worker threads.
    """
    stop = threading.Event()
    try:
        return await asyncio.to_thread(function, *args, stop=stop)
    finally:
        stop.set()


async def hash_path(path: Path, size: int | None = None) -> hashlib._Hash:
    """Return the SHA-256 of a file, or of its first `size` bytes, as a hash object."""
    return await run_stoppable(_hash_path, path, size)


def _hash_path(path: Path, size: int | None, stop: threading.Event) -> hashlib._Hash:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return hash_file(fd, size, stop)
    finally:
        os.close(fd)
