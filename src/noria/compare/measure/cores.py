"""The cores of the server and of the clients."""

from __future__ import annotations

import os
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def pair(allowed: set[int] | None = None) -> tuple[int, int] | None:
    """Two cores that this process may use; if possible, not hyperthreads of one physical core.

    None if there is only one core: then no process is pinned.
    """
    cores = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    if len(cores) < 2:
        return None
    # The first core often handles most interrupts: avoid it if there are more than two.
    server = cores[1] if len(cores) > 2 else cores[0]
    others = [core for core in reversed(cores) if core != server]
    siblings = _siblings(server)
    return server, next((core for core in others if core not in siblings), others[0])


def _siblings(core: int) -> set[int]:
    """The hyperthreads of the same physical core, including this one."""
    try:
        text = (TOPOLOGY / f"cpu{core}/topology/thread_siblings_list").read_text()
    except OSError:
        return {core}
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            found.update(range(int(first), int(last or first) + 1))
    return found or {core}


def processor() -> str:
    """The CPU's model name from /proc/cpuinfo, or the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    except OSError:
        pass
    return os.uname().machine
