"""What holds for every test: it leaves no descriptor, no thread and no child process behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 3.0  # seconds given to threads and children that are ending already


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
    while True:
        gc.collect()
        more = {
            "descriptors": sorted((Counter(descriptors()) - before[0]).elements()),
            "threads": [t.name for t in threading.enumerate() if t not in before[1]],
            "native threads": native_threads() - natives if native_threads() > natives else 0,
            "children": sorted(children() - before[2]),
        }
        if not any(more.values()):
            return
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    pytest.fail(f"the test leaves behind: { {k: v for k, v in more.items() if v} }")


def native_threads() -> int:
    """Threads of this process as the kernel counts them; the kernel's own (iou-*) do not count."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            count += not (task / "comm").read_text().startswith("iou-")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count
