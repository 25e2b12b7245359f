"""asyncio programs on several event loops, interleaved: servers, clients, scheduling, memory."""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
from harness import LIMIT, Unavailable
from rows import ROWS
from rows.row import BEST, SERVERS, UVLOOP, Place, Row
from rows.show import columns_of, print_table
from rows.verdict import Found, Verdict, as_json, geometric_mean, is_noria

PEERS = ("asyncio", "uvloop", "rloop", "blazio", "noria")
MODELS = tuple(f"noria-{m}" for m in ("select", "poll", "epoll", "epoll-edge", "io_uring"))
KNOWN = (*PEERS, *MODELS, *SERVERS, LIMIT)


def rows_like(patterns: str | None, known: Sequence[Row] = ROWS) -> list[Row]:
    """The rows whose name has one of the texts in it, or matches one as a glob; separated by `;`.

    A row that a goal is relative to comes along.
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
    """Every measurement: row by row, the loops in turn, beginning with another in each round."""
    steps = [
        (number, row, loop)
        for number in range(count)
        for row in rows
        for loop in rotated([loop for loop in loops if row.asks(loop)], number)
    ]
    began = time.monotonic()
    for done, (number, row, loop) in enumerate(steps):
        harness.progress(done, len(steps), began, f"round {number + 1}: {row.name}, {loop}")
        yield number, row, loop
    harness.progress_end()


def rotated(loops: list[str], by: int) -> list[str]:
    """Return the loops, rotated by `by`."""
    turn = by % max(len(loops), 1)
    return loops[turn:] + loops[:turn]


def measure(found: Found, number: int, loop: str, place: Place) -> None:
    """Run one measurement. A loop that cannot do a row is not measured again."""
    if loop in found.none:
        return
    try:
        sample = found.row.measure(loop, place)
    except (Unavailable, subprocess.TimeoutExpired) as error:
        harness.progress_end()
        harness.log(f"{loop} is skipped for {found.row.name!r}: {error}")
        if loop not in found.samples:
            found.none[loop] = str(error)
    else:
        found.samples.setdefault(loop, {})[number] = sample


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=1.0, help="of each measurement under load")
    p.add_argument("--rows", metavar="TEXT;...", help="parts of their names, or globs")
    p.add_argument("--peers", metavar="NAME,...", help=", ".join(KNOWN))
    p.add_argument("--models", action="store_true", help="noria on each of its models too")
    p.add_argument("--json", metavar="FILE", help="write every measurement there")
    p.add_argument(
        "--fresh", action="store_true", help="measure servers before any connection has ended"
    )
    p.add_argument("--list", action="store_true", help="print the rows' names")
    return p


def main() -> None:
    """The command."""
    p = parser()
    options = p.parse_args()
    rows = rows_like(options.rows)
    if options.list or not rows:
        print("\n".join(row.name for row in (rows or ROWS)))
        return
    loops = harness.parse_names(options.peers, KNOWN) if options.peers else [*PEERS, LIMIT]
    loops = list(dict.fromkeys(loops))
    if options.models:
        loops += [model for model in MODELS if model not in loops]
    noria = next((loop for loop in loops if is_noria(loop)), None)
    harness.raise_descriptor_limit()
    server, load = harness.cores()
    os.sched_setaffinity(0, {load})  # so that no measured process shares its core with this one
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
