"""Measure asyncio programs on several event loops: servers, clients, scheduling, memory."""

from __future__ import annotations

import argparse
import fnmatch
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
from harness import LIMIT
from rows import ROWS
from rows.row import BEST, SERVERS, UVLOOP, Place, Row
from rows.show import columns_of, print_table
from rows.verdict import Found, Verdict, as_json, geometric_mean, is_noria

from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.loops import run
from noria.compare.measure.rounds import rotated

PEERS = ("asyncio", "uvloop", "rloop", "blazio", "noria")
MODELS = tuple(f"noria-{m}" for m in ("select", "poll", "epoll", "epoll-edge", "io_uring"))
KNOWN = (*PEERS, *MODELS, *SERVERS, LIMIT)


def select_rows(patterns: str | None, known: Sequence[Row] = ROWS) -> list[Row]:
    """Return the rows whose name contains, or matches as a glob, one of the `;`-separated patterns.

    Rows that their goals are relative to are included.
    """
    if not patterns:
        return list(known)
    wanted = [pattern.strip().lower() for pattern in patterns.split(";")]
    chosen = {
        row.name
        for row in known
        if any(p in row.name.lower() or fnmatch.fnmatchcase(row.name.lower(), p) for p in wanted)
    }
    chosen |= {row.against for row in known if row.name in chosen}
    return [row for row in known if row.name in chosen]


def turns(count: int, rows: Sequence[Row], loops: Sequence[str]) -> Iterator[tuple[int, Row, str]]:
    """Yield (round, row, loop) for every measurement; each round starts with a different loop."""
    steps = [
        (number, row, loop)
        for number in range(count)
        for row in rows
        for loop in rotated([loop for loop in loops if row.applies_to(loop)], number)
    ]
    began = time.monotonic()
    for done, (number, row, loop) in enumerate(steps):
        harness.progress(done, len(steps), began, f"round {number + 1}: {row.name}, {loop}")
        yield number, row, loop
    harness.progress_end()


def measure(found: Found, number: int, loop: str, place: Place) -> None:
    """Run one measurement. A loop that does not support a row is skipped from then on."""
    if reason := run.measure_once(found, loop, number, place):
        harness.progress_end()
        harness.log(f"{loop} is skipped for {found.row.name!r}: {reason}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument(
        "--seconds", type=float, default=1.0, help="duration of each measurement under load"
    )
    p.add_argument("--rows", metavar="TEXT;...", help="parts of row names, or globs")
    p.add_argument("--peers", metavar="NAME,...", help=", ".join(KNOWN))
    p.add_argument("--models", action="store_true", help="also measure noria on each of its models")
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    p.add_argument(
        "--fresh", action="store_true", help="measure servers before any connection has ended"
    )
    p.add_argument("--list", action="store_true", help="print the rows' names")
    return p


def main() -> None:
    """Run the command."""
    p = parser()
    options = p.parse_args()
    rows = select_rows(options.rows)
    if options.list or not rows:
        print("\n".join(row.name for row in (rows or ROWS)))
        return
    loops = harness.parse_names(options.peers, KNOWN) if options.peers else [*PEERS, LIMIT]
    loops = list(dict.fromkeys(loops))
    if options.models:
        loops += [model for model in MODELS if model not in loops]
    noria = next((loop for loop in loops if is_noria(loop)), None)
    raise_descriptor_limit()
    server, load = harness.cores()
    # Keep this process off the core of the measured process.
    os.sched_setaffinity(0, {load})
    every = {row.name: Found(row) for row in rows}
    with tempfile.TemporaryDirectory(prefix="loops-") as scratch:
        place = Place(server, load, options.seconds, Path(scratch), options.fresh)
        try:
            for number, row, loop in turns(options.rounds, rows, loops):
                measure(every[row.name], number, loop, place)
        finally:
            harness.progress_end()
            print_table(every, columns_of(loops, every), noria)
            verdicts = [Verdict.of(noria, found, every) for found in every.values() if noria]
            harness.write(
                options.json,
                {
                    "rounds": options.rounds,
                    "seconds": options.seconds,
                    "fresh": options.fresh,
                    "rows": as_json(every, loops),
                    "geometric_mean": {
                        UVLOOP: geometric_mean([verdict.to_uvloop for verdict in verdicts]),
                        BEST: geometric_mean([verdict.to_best for verdict in verdicts]),
                    },
                },
            )


if __name__ == "__main__":
    harness.run_main(main)
