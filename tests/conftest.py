"""Fixtures for every test: each must leave no descriptor, thread or child process behind."""

from __future__ import annotations

# Imported before the first check: libffi may keep a descriptor of its library open from then on.
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

from support import slow

SETTLE_SECONDS = 3.0  # seconds to wait for threads and children that are exiting

# A shell starts background jobs with SIGINT ignored; children that the tests interrupt would
# inherit this.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out slow files."""
    return slow.is_left_out(collection_path, config.args) or None


def descriptors() -> list[str]:
    """Return the link targets of this process's open descriptors (/proc/self/fd)."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed the directory
        # Drop the inode numbers of sockets and pipes.
        found.append(target.split(":[")[0])
    return found


def children() -> set[str]:
    """Return the pids of child processes that have not been waited for."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update((task / "children").read_text().split())
        except FileNotFoundError:
            continue
    return found


def pytest_collection_finish() -> None:
    """Keep the modules and the thousands of test items out of the garbage collections of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """Fail a test that ends with more descriptors, threads or children than it began with."""
    before = Counter(descriptors()), set(threading.enumerate()), children()
    natives = native_threads()
    yield
    end = time.monotonic() + SETTLE_SECONDS
    while more := left_over(before, natives):
        if time.monotonic() > end:
            pytest.fail(f"the test leaves behind: {more}")
        gc.collect()
        time.sleep(0.01)


def left_over(
    before: tuple[Counter[str], set[threading.Thread], set[str]], natives: int
) -> dict[str, Any]:
    """Return what has increased since the start of the test."""
    more = {
        "descriptors": sorted((Counter(descriptors()) - before[0]).elements()),
        # Before Python 3.13 a thread not started by Python stays in this list forever.
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
    """Return the number of threads in /proc/self/task, without io_uring workers (iou-*)."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            count += not (task / "comm").read_text().startswith("iou-")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return count
