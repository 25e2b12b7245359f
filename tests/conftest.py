"""What holds for every test: it leaves no descriptor, no thread and no child process behind."""

from __future__ import annotations

# From this import on, libffi may keep a descriptor of its own shared library.
import ctypes  # noqa: F401
import gc
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 3.0  # seconds given to threads and children that are ending already

# A shell starts what runs in the background with SIGINT ignored, and so would be every child that
# the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def descriptors() -> list[str]:
    """What the open descriptors of this process are."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed the directory
        # Sockets and pipes have a number each, which tells nothing.
        found.append(target.split(":[")[0])
    return found


def children() -> set[str]:
    """Processes that this one has started and not waited for."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update((task / "children").read_text().split())
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """Fails a test that ends with more descriptors, threads or children than it began with."""
    before = Counter(descriptors()), set(threading.enumerate()), children()
    natives = native_threads()
    yield
    end = time.monotonic() + PATIENCE
    while more := left_over(before, natives):
        if time.monotonic() > end:
            pytest.fail(f"the test leaves behind: {more}")
        gc.collect()
        time.sleep(0.01)


def left_over(
    before: tuple[Counter[str], set[threading.Thread], set[str]], natives: int
) -> dict[str, Any]:
    """What there is more of than before."""
    more = {
        "descriptors": sorted((Counter(descriptors()) - before[0]).elements()),
        # Before Python 3.13 a thread that Python did not start stays in this list for ever.
        "threads": [
            thread.name
            for thread in threading.enumerate()
            if thread not in before[1] and not isinstance(thread, threading._DummyThread)
        ],
        "native threads": max(native_threads() - natives, 0),
        "children": sorted(children() - before[2]),
    }
    return {kind: what for kind, what in more.items() if what}


def native_threads() -> int:
    """Threads of this process as the kernel counts them; the kernel's own (iou-*) do not count."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            count += not (task / "comm").read_text().startswith("iou-")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count
