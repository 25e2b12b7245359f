"""Resident bytes of an idle connection, above those of an empty protocol object."""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(harness.BENCH / "peers"))

SERVERS = (harness.LIMIT, *harness.PEERS, "noria-epoll", "noria-epoll-edge", "noria-io_uring")
ACCEPT_SECONDS = 30.0


def resident(pid: int) -> int:
    """Bytes of memory that the process alone has resident: no page of a shared library."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


def settled(pid: int) -> int:
    """The resident bytes once they no longer change."""
    before, now = -1, resident(pid)
    while now != before:
        time.sleep(0.2)
        before, now = now, resident(pid)
    return now


def protocol_bytes(count: int) -> float:
    """Resident bytes of one protocol object that has nothing but its transport's place."""
    from protocol import Echo

    objects: list[Echo | None] = [None] * count
    spare = [Echo() for _ in range(100)]  # the class and its allocator's first arenas are there
    gc.collect()
    before = settled(os.getpid())
    for i in range(count):
        objects[i] = one = Echo()
        one.transport = None
    found = (settled(os.getpid()) - before) / count
    del objects, spare
    return found


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_for_descriptors(pid: int, wanted: int) -> None:
    """Until the server has accepted all: connecting does not wait for it."""
    latest = time.monotonic() + ACCEPT_SECONDS
    while descriptors(pid) < wanted:
        if time.monotonic() > latest:
            raise harness.Unable("it did not accept all connections")
        time.sleep(0.05)


def measure(server: str, count: int, server_core: int) -> float:
    """Resident bytes of one idle connection of a server."""
    from noria.compare.load import open_idle, run

    with harness.serving(server, server_core) as (pid, port):
        # A first few, so that code and allocators are warm and only connections are counted.
        run("127.0.0.1", port, connections=50, size=1024, seconds=0.1, warmup=0)
        empty = descriptors(pid)
        while True:
            time.sleep(0.1)
            if (now := descriptors(pid)) == empty:
                break
            empty = now
        before = settled(pid)
        with open_idle("127.0.0.1", port, count):
            wait_for_descriptors(pid, empty + count)
            return (settled(pid) - before) / count


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--connections", type=int, default=5000)
    p.add_argument("--servers", metavar="NAME,...", help=", ".join(SERVERS))
    p.add_argument("--json", metavar="FILE", help="write every measurement there")
    p.add_argument("--quick", action="store_true", help="one round")
    options = p.parse_args()
    servers = harness.chosen(options.servers, harness.SERVERS if options.servers else SERVERS)
    from protocol import raise_descriptor_limit

    raise_descriptor_limit()
    server_core, load_core = harness.cores()
    os.sched_setaffinity(0, {load_core})
    protocol = protocol_bytes(options.connections)
    found: dict[str, list[float]] = {}
    try:
        for _, _, server, size in harness.rounds(
            1 if options.quick else options.rounds,
            [f"{options.connections:,} idle connections"],
            servers,
            lambda _, server: measure(server, options.connections, server_core),
        ):
            found.setdefault(server, []).append(size)
    finally:
        harness.progress_end()
        lines: list[dict[str, Any]] = []
        for server in (s for s in servers if s in found):
            each = statistics.median(found[server])
            above = each - (0.0 if server == harness.LIMIT else protocol)
            lines.append({"server": server, "bytes": each, "above_protocol": above})
        if lines:
            harness.table(
                f"{options.connections:,} idle connections; "
                f"a protocol object has {protocol:.0f} bytes",
                ("server", "bytes a connection", "above a protocol object"),
                [
                    [line["server"], f"{line['bytes']:,.0f}", f"{line['above_protocol']:,.0f}"]
                    for line in lines
                ],
            )
        harness.write(
            options.json,
            {
                "connections": options.connections,
                "protocol_bytes": protocol,
                "summary": lines,
                "measurements": found,
            },
        )


if __name__ == "__main__":
    harness.guarded(main)
