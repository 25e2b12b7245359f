"""Measure file reads and writes with several file APIs, and how long each blocked its loop."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import harness
from harness import Unavailable, median, shown
from loop import measure, select_rows, turns
from rows.row import BEST, PYTHON_PEERS, Place, Row, Sample, one_shot, run_and_parse
from rows.show import figure
from rows.verdict import Found, best, compared, measurements

MIB = 1 << 20
PEERS = ("blazio", "pool", "aiofiles", "sync")
WAYS = ("noria", "noria-threads", "noria-asyncio", *PEERS)
LINE = 100  # average bytes of a log line
TMPFS = "/dev/shm"
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class FileSample(Sample):
    """One measurement with the loop's longest stall in milliseconds."""

    stall: float = 0.0


@dataclass(frozen=True, slots=True)
class FileRow(Row):
    """A row with goals relative to several ways; "best" is the best way other than noria's."""

    goals: Mapping[str, float] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def applies_to(self, loop: str) -> bool:
        """Return whether this way has the row."""
        return loop not in self.without


@one_shot
def work(does: str, on: str, way: str, at: Place) -> FileSample:
    """Measure a row of peers/file_work.py on a file or in a new directory; raises Unavailable."""
    if way in ("blazio", "aiofiles") and importlib.util.find_spec(way) is None:
        raise Unavailable(f"not installed: pip install {way}")
    with contextlib.ExitStack() as stack:
        where = at.scratch / on
        if on == TMPFS:
            own = tempfile.TemporaryDirectory(prefix="files-", dir=on)
            where = Path(stack.enter_context(own))
        elif not on:
            # The directory is kept until the end: without a journal, ext4 avoids recently freed
            # inodes for minutes and checks each one, which doubles the cost of creating a file.
            where = Path(tempfile.mkdtemp(dir=at.scratch))
            # Flush the writes of the previous measurement.
            os.sync()
        environment = os.environ | {"NORIA_FILES": "threads" if way == "noria-threads" else "ring"}
        words = [sys.executable, str(PYTHON_PEERS / "file_work.py"), way, does, str(where)]
        cores = os.sched_getaffinity(0)
        value, stall = run_and_parse([*words, str(at.seconds)], TIMEOUT_SECONDS, cores, environment)
    return FileSample(value, stall=stall)


def row(
    name: str,
    does: str,
    on: str,
    goals: Mapping[str, float],
    unit: str = "/s",
    without: tuple[str, ...] = (),
) -> FileRow:
    """Return a row; `on` is "cached", "large", "log", "" (a new directory) or TMPFS (one there)."""
    measure = partial(work, does, on)
    return FileRow(name, measure, unit=unit, driven=False, goals=goals, without=without)


ROWS = (
    row("pread 4 KiB, 64 at once", "cached", "cached", {"blazio": 1.25, "pool": 7.0}),
    row("pread 4 KiB, tasks of 64", "gathered", "cached", {"blazio": 1.25, "pool": 7.0}),
    row("pread 4 KiB, not in memory", "uncached", "large", {BEST: 1.0}),
    row("1 MiB after the other", "sequential", "large", {BEST: 1.0}, unit="B/s"),
    row("10,000 small files", "small", "", {"aiofiles": 5.0}),
    row("10,000 small files in a tmpfs", "small", TMPFS, {"aiofiles": 5.0}),
    row("lines of a log", "lines", "log", {"aiofiles": 5.0}, without=("pool",)),
    row("write and fsync, 64 at once", "durable", "", {BEST: 1.0}),
    row("stat, 64 at once", "stats", "cached", {}, without=("blazio",)),
    row("mkdir, rename, rmdir, 64 at once", "names", TMPFS, {}, without=("blazio",)),
)


def make_files(scratch: Path, size: int) -> None:
    """Create the input files: incompressible bytes, and a log of lines."""
    source = random.Random(1)
    part = source.randbytes(16 * MIB)
    with open(scratch / "cached", "wb") as file:
        for _ in range(4):
            file.write(part)
    with open(scratch / "large", "wb") as file:
        for _ in range(size // len(part)):
            file.write(part)
    lines = []
    while sum(map(len, lines)) < MIB:
        lines.append(source.randbytes(source.randrange(LINE)).hex().encode() + b"\n")
    block = b"".join(lines)
    with open(scratch / "log", "wb") as file:
        for _ in range(max(size // len(block), 1)):
            file.write(block)
    os.sync()
    # Read each file once from the device, as the storage below may have a cache too.
    for name in ("large", "log"):
        with open(scratch / name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(MIB):
                pass


def verdicts(found: Found) -> dict[str, dict[str, float | str | bool]]:
    """Return for each goal: the way compared with, noria's ratio, and whether the goal is met."""
    results: dict[str, dict[str, float | str | bool]] = {}
    assert isinstance(found.row, FileRow)
    for against, goal in found.row.goals.items():
        other = best(found) if against == BEST else against
        reached = compared(found.row, found.values("noria"), found.values(other or ""))
        if other and reached:
            middle = reached.median
            results[against] = {"way": other, "goal": goal, "ratio": middle, "met": middle >= goal}
    return results


def stall(found: Found, way: str) -> str:
    """Format the median stall over the rounds; the "sync" way has no loop."""
    samples = [s.stall for s in found.samples.get(way, {}).values() if isinstance(s, FileSample)]
    return shown(None if way == "sync" else median(samples), ",.1f")


def amount(value: float | None, unit: str) -> str:
    """Format a value with its unit."""
    if value is not None and unit == "B/s":
        return f"{value / MIB:,.0f} MiB/s"
    return figure(value, unit)


def tables(every: dict[str, Found], ways: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Return two tables with headers: values with noria's ratios, and stalls."""
    lines = [["", *ways, "noria"]]
    stalls = [["ms", *ways]]
    for name, found in every.items():
        if not found.samples:
            continue
        marks = []
        for against, each in verdicts(found).items():
            other = each["way"] if against == BEST else against
            sign = "" if each["met"] else ", not met"
            marks.append(f"{each['ratio']:.2f} {other} (goal {each['goal']:g}{sign})")
        cells = [amount(found.middle(way), found.row.unit) for way in ways]
        lines.append([name, *cells, "; ".join(marks)])
        stalls.append([name, *(stall(found, way) for way in ways)])
    return lines, stalls


def load_results(file: str) -> dict[str, Found]:
    """Load the results that --json has written."""
    every = {}
    known = {row.name: row for row in ROWS}
    for each in json.loads(Path(file).read_text())["rows"]:
        found = every[each["row"]] = Found(known[each["row"]])
        for way, measured in each["ways"].items():
            found.samples[way] = {
                m.pop("round"): FileSample(**m) for m in map(dict, measured["measurements"])
            }
    return every


def print_tables(every: dict[str, Found], ways: list[str]) -> None:
    """Print both tables."""
    lines, stalls = tables(every, ways)
    harness.table("throughput, and noria's ratio to other ways", lines[0], lines[1:])
    harness.table("the loop's longest stall", stalls[0], stalls[1:])


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=2.0, help="duration of each timed measurement")
    p.add_argument("--rows", metavar="TEXT;...", help="parts of row names")
    p.add_argument("--ways", metavar="NAME,...", help=", ".join(WAYS))
    p.add_argument(
        "--size", type=int, default=1024, help="size of the large file and the log in MiB"
    )
    p.add_argument("--dir", type=Path, help="directory for the files; on a disk, not a tmpfs")
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    p.add_argument(
        "--quick",
        action="store_true",
        help="a short run, to check that it runs; its values mean little",
    )
    p.add_argument(
        "--markdown", metavar="FILE", help="print the tables of a --json FILE without measuring"
    )
    p.add_argument("--list", action="store_true", help="print the rows' names")
    return p


def main() -> None:
    """Run the command."""
    options = parser().parse_args()
    if options.markdown:
        for lines in tables(load_results(options.markdown), list(WAYS)):
            for line in lines:
                print(f"| {' | '.join(line)} |")
            print()
        return
    if options.quick:
        options.rounds, options.seconds, options.size = 1, 0.2, 64
    rows = select_rows(options.rows, ROWS)
    if options.list or not rows:
        print("\n".join(row.name for row in (rows or ROWS)))
        return
    ways = harness.parse_names(options.ways, WAYS)
    every = {row.name: Found(row) for row in rows}
    with tempfile.TemporaryDirectory(prefix="files-", dir=options.dir) as name:
        make_files(Path(name), max(options.size, 16) * MIB)
        place = Place(*harness.cores(), options.seconds, Path(name))
        try:
            for number, row, way in turns(options.rounds, rows, ways):
                measure(every[row.name], number, way, place)
        finally:
            harness.progress_end()
            print_tables(every, ways)
            harness.write(
                options.json,
                {
                    "rounds": options.rounds,
                    "seconds": options.seconds,
                    "rows": [
                        {
                            "row": name,
                            "unit": found.row.unit,
                            "ways": measurements(found),
                            "none": found.unavailable,
                            "goals": verdicts(found),
                        }
                        for name, found in every.items()
                    ],
                },
            )


if __name__ == "__main__":
    harness.run_main(main)
