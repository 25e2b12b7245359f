"""asyncio programs on several event loops, interleaved: scheduling, and servers under load."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from functools import partial

from harness import (
    BENCH,
    Measurement,
    Unable,
    chosen,
    cores,
    load,
    median,
    progress,
    progress_end,
    raise_descriptor_limit,
    ratio,
    say,
    serving_command,
    shown,
    table,
    write,
)

LOOPS = ("asyncio", "uvloop", "rloop", "blazio", "noria", "noria-epoll")
BASE = "uvloop"

# What a server of peers/loop_server.py is asked: its kind, connections, bytes of a message.
SERVED = {
    "Protocol 1 KiB, 100": ("protocol", 100, 1024),
    "BufferedProtocol 1 KiB, 100": ("buffered", 100, 1024),
    "streams 1 KiB, 100": ("streams", 100, 1024),
    "streams 100 kB, 10": ("streams", 10, 100_000),
    "sock_* 1 KiB, 100": ("sock", 100, 1024),
}
MICRO = (
    "call_soon chain",
    "100 call_soon a turn",
    "sleep(0)",
    "gather of 100",
    "timers cancelled",
    "timers fired",
    "call_soon_threadsafe",
    "spawn",
)
ROWS = (*SERVED, *MICRO)


def measure(row: str, loop: str, seconds: float) -> float:
    """Operations or messages a second; raises Unable."""
    server, client = cores()
    if row in SERVED:
        kind, connections, size = SERVED[row]
        command = [sys.executable, str(BENCH / "peers" / "loop_server.py"), loop, kind]
        with serving_command(command, server) as (pid, port):
            found = load(port, client, pid=pid, seconds=seconds, connections=connections, size=size)
        return float(found["messages"]) / float(found["seconds"])
    command = [sys.executable, str(BENCH / "peers" / "loop_micro.py"), loop, row]
    # A thread that calls, or a child that is spawned, is another core's.
    allowed = {server, client} if row in ("call_soon_threadsafe", "spawn") else {server}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=partial(os.sched_setaffinity, 0, allowed),
    )
    if done.returncode:
        raise Unable((done.stderr.strip().splitlines() or ["it failed"])[-1])
    return float(done.stdout)


def main() -> int:
    """Run the command; returns its exit status."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=0.7, help="of each measurement under load")
    p.add_argument("--loops", metavar="NAME,...", help=", ".join(LOOPS))
    p.add_argument("--rows", metavar="NAME;...", help="; ".join(ROWS))
    p.add_argument("--json", metavar="FILE", help="write every measurement there")
    options = p.parse_args()
    loops = chosen(options.loops, LOOPS)
    rows = options.rows.split(";") if options.rows else list(ROWS)
    if strangers := [row for row in rows if row not in ROWS]:
        say(f"unknown: {strangers[0]!r}; known are {'; '.join(ROWS)}")
        return 2
    raise_descriptor_limit()
    found: dict[str, dict[str, dict[int, float]]] = {row: {n: {} for n in loops} for row in rows}
    unable: set[str] = set()
    steps = options.rounds * len(rows) * len(loops)
    done = 0
    began = time.monotonic()
    for number in range(options.rounds):
        for row in rows:
            for loop in loops:
                progress(done, steps, began, f"{row}: {loop}")
                done += 1
                if loop in unable:
                    continue
                try:
                    found[row][loop][number] = measure(row, loop, options.seconds)
                except (Unable, subprocess.TimeoutExpired) as error:
                    progress_end()
                    say(f"{loop} is left out of {row!r}: {error}")
                    if "not installed" in str(error) or "No module" in str(error):
                        unable.add(loop)
    progress_end()
    cells = []
    for row in rows:
        base = found[row].get(BASE, {})
        values = [f"{shown(ratio(found[row][n], base), '.2f')}" for n in loops]
        best = median(list(found[row][loops[-1]].values()))
        cells.append([row, *values, shown(best and best / 1000, ",.0f") + "k"])
    means = []
    for n in loops:
        ratios = [r for row in rows if (r := ratio(found[row][n], found[row].get(BASE, {})))]
        means.append(math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None)
    cells.append(["geometric mean", *(shown(m, ".2f") for m in means), ""])
    table(f"a second, to {BASE}'s in the same round", ["", *loops, loops[-1]], cells)
    results: Measurement = {"rows": found}
    write(options.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
