"""Compare noria's file server with nginx, http.server and uploadserver."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

import harness
from fileservers.rows import rows
from fileservers.servers import MODELS, SERVERS
from fileservers.show import as_json, print_table
from loop import measure, select_rows, turns
from rows.row import Place
from rows.verdict import Found, is_noria

from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit

KNOWN = (*SERVERS, *MODELS)
BIG, QUICK_BIG = 1 << 30, 64 << 20


def file_system(directory: Path) -> str:
    """Return the file system type of a directory, which limits uploads (stat(1))."""
    words = ["stat", "--file-system", "--format=%T", str(directory)]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument(
        "--seconds", type=float, default=2.0, help="duration of each measurement under load"
    )
    p.add_argument("--rows", metavar="TEXT;...", help="parts of row names, or globs")
    p.add_argument("--servers", metavar="NAME,...", help=", ".join(KNOWN))
    p.add_argument("--dir", type=Path, metavar="DIR", help="directory for the served files")
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    p.add_argument(
        "--quick",
        action="store_true",
        help="one round of 1 second with 64 MiB, to check that it runs",
    )
    p.add_argument("--list", action="store_true", help="print the rows' names")
    return p


def main() -> None:
    """Run the command."""
    options = parser().parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    known = rows(QUICK_BIG if options.quick else BIG)
    chosen = select_rows(options.rows, known)
    if options.list or not chosen:
        print("\n".join(row.name for row in (chosen or known)))
        return
    servers = harness.parse_names(options.servers, KNOWN) if options.servers else list(SERVERS)
    noria = next((server for server in servers if is_noria(server)), None)
    raise_descriptor_limit()
    server_core, load_core = harness.cores()
    # Keep this process off the core of the measured process.
    os.sched_setaffinity(0, {load_core})
    every = {row.name: Found(row) for row in chosen}
    with tempfile.TemporaryDirectory(prefix="fileserver-", dir=options.dir) as scratch:
        place = Place(server_core, load_core, options.seconds, Path(scratch))
        kind = file_system(place.scratch)
        harness.log(
            f"the served files are in {place.scratch}, on {kind}; --dir chooses another directory"
        )
        try:
            for number, row, server in turns(options.rounds, chosen, servers):
                measure(every[row.name], number, server, place)
        finally:
            harness.progress_end()
            print_table(every, servers, noria)
            harness.write(
                options.json,
                {
                    "rounds": options.rounds,
                    "seconds": options.seconds,
                    "file_system": kind,
                    "rows": as_json(every, noria),
                },
            )


if __name__ == "__main__":
    harness.run_main(main)
