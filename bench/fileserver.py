"""noria's file server beside nginx, http.server and uploadserver, interleaved."""

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
from loop import measure, rows_like, turns
from rows.row import Place
from rows.verdict import Found, is_noria

KNOWN = (*SERVERS, *MODELS)
BIG, QUICK_BIG = 1 << 30, 64 << 20


def file_system(directory: Path) -> str:
    """What kind a directory is on: uploads are as fast as that."""
    words = ["stat", "--file-system", "--format=%T", str(directory)]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=2.0, help="of each measurement under load")
    p.add_argument("--rows", metavar="TEXT;...", help="parts of their names, or globs")
    p.add_argument("--servers", metavar="NAME,...", help=", ".join(KNOWN))
    p.add_argument("--dir", type=Path, metavar="DIR", help="where the files are made and served")
    p.add_argument("--json", metavar="FILE", help="write every measurement there")
    p.add_argument(
        "--quick", action="store_true", help="one round of a second, 64 MiB: does it run?"
    )
    p.add_argument("--list", action="store_true", help="print the rows' names")
    return p


def main() -> None:
    """The command."""
    options = parser().parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    known = rows(QUICK_BIG if options.quick else BIG)
    chosen = rows_like(options.rows, known)
    if options.list or not chosen:
        print("\n".join(row.name for row in (chosen or known)))
        return
    servers = harness.parse_names(options.servers, KNOWN) if options.servers else list(SERVERS)
    noria = next((server for server in servers if is_noria(server)), None)
    harness.raise_descriptor_limit()
    server_core, load_core = harness.cores()
    os.sched_setaffinity(0, {load_core})  # what is measured never has to share its core with this
    every = {row.name: Found(row) for row in chosen}
    with tempfile.TemporaryDirectory(prefix="fileserver-", dir=options.dir) as scratch:
        place = Place(server_core, load_core, options.seconds, Path(scratch))
        kind = file_system(place.scratch)
        harness.log(f"the files are in {place.scratch}, on {kind}; --dir takes another place")
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
