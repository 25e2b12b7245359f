"""Measure resident bytes per idle connection, beyond an empty protocol object."""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from functools import partial
from typing import Any

import harness

from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.loops import network

settled = partial(network.settled, pause=0.2, at_most=60)

sys.path.insert(0, str(harness.BENCH / "peers"))

SERVERS = (harness.LIMIT, *harness.PEERS, "noria-epoll", "noria-epoll-edge", "noria-io_uring")
FIRST = 1000  # connections that fill the free memory a process already has


def protocol_bytes(count: int) -> float:
    """Return the resident bytes of a protocol object whose transport is None."""
    from protocol import Echo

    objects: list[Echo | None] = [None] * count
    # Create the class and the allocator's first arenas before counting.
    spare = [Echo() for _ in range(100)]
    gc.collect()
    before = settled(os.getpid())
    for i in range(count):
        objects[i] = one = Echo()
        one.transport = None
    found = (settled(os.getpid()) - before) / count
    del objects, spare
    return found


def measure(words: list[str], count: int, server_core: int) -> tuple[float, float]:
    """Measure resident bytes per idle connection, counted from 0 and from FIRST connections on.

    `words` is the server's command. The first connections fill memory that the process has free
    from its start, so the cost of a connection is counted from FIRST on.
    """
    from noria.compare.loadgen.load import run

    with harness.serving_command(words, server_core) as (pid, port):
        # Load the code and tables that a server needs once before counting.
        run("127.0.0.1", port, connections=50, size=1024, seconds=0.1, warmup=0)
        time.sleep(0.2)
        none = settled(pid)
        with harness.idle(port, FIRST):
            some = settled(pid)
            with harness.idle(port, count):
                all_of_them = settled(pid)
        return (all_of_them - none) / (FIRST + count), (all_of_them - some) / count


def main() -> None:
    """Run the command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--connections", type=int, default=5000)
    p.add_argument("--servers", metavar="NAME,...", help=", ".join(SERVERS))
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    p.add_argument("--quick", action="store_true", help="one round")
    options = p.parse_args()
    servers = harness.parse_names(options.servers, harness.SERVERS if options.servers else SERVERS)
    raise_descriptor_limit()
    server_core, load_core = harness.cores()
    os.sched_setaffinity(0, {load_core})
    protocol = protocol_bytes(options.connections)
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        for _, _, server, size in harness.rounds(
            1 if options.quick else options.rounds,
            [f"{options.connections:,} idle connections"],
            servers,
            lambda _, server: measure(harness.command(server), options.connections, server_core),
        ):
            found.setdefault(server, []).append(size)
    finally:
        harness.progress_end()
        lines: list[dict[str, Any]] = []
        for server in (s for s in servers if s in found):
            from_none, each = (
                statistics.median(sizes) for sizes in zip(*found[server], strict=True)
            )
            lines.append(
                {
                    "server": server,
                    "bytes_from_none": from_none,
                    "bytes": each,
                    "above_protocol": each - (0.0 if server == harness.LIMIT else protocol),
                }
            )
        if lines:
            harness.table(
                f"{options.connections:,} idle connections; "
                f"a protocol object takes {protocol:.0f} bytes",
                ("server", "counted from none", f"from {FIRST:,} on", "above a protocol object"),
                [
                    [line["server"]] + [f"{value:,.0f}" for value in list(line.values())[1:]]
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
    harness.run_main(main)
