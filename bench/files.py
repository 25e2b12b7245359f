"""Files read and written in several ways, interleaved, and how long their loops were held up."""

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
from loop import measure, rows_like, turns
from rows.row import BEST, PYTHON_PEERS, Place, Row, Sample, answer
from rows.show import figure
from rows.verdict import Found, Ratio, best, measurements

MIB = 1 << 20
PEERS = ("blazio", "pool", "aiofiles", "sync")
WAYS = ("noria", "noria-threads", "noria-asyncio", *PEERS)
LINE = 100  # bytes, on average, of the log
TMPFS = "/dev/shm"
TIMEOUT_SECONDS = 600.0  # seconds for the slowest


@dataclass(frozen=True, slots=True)
class FileSample(Sample):
    """One measurement, and the loop's longest stall in milliseconds."""

    stall: float = 0.0


@dataclass(frozen=True, slots=True)
class FileRow(Row):
    """A row whose goals are relative to several ways; "best" is the best of the others."""

    goals: Mapping[str, float] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def asks(self, loop: str) -> bool:
        """Whether this way has the row."""
        return loop not in self.without


def work(does: str, on: str, way: str, at: Place) -> FileSample:
    """A row of peers/file_work.py on a file, or in a directory of its own. Raises Unavailable."""
    if way in ("blazio", "aiofiles") and importlib.util.find_spec(way) is None:
        raise Unavailable(f"not installed: pip install {way}")
    with contextlib.ExitStack() as stack:
        where = at.scratch / on
        if on == TMPFS:
            own = tempfile.TemporaryDirectory(prefix="files-", dir=on)
            where = Path(stack.enter_context(own))
        elif not on:
            # It stays until all is measured: for minutes ext4 looks at each inode that was freed
            # before it takes another (without a journal), which made files twice as slow to make.
            where = Path(tempfile.mkdtemp(dir=at.scratch))
            os.sync()  # the disk has no work left of the one before
        environment = os.environ | {"NORIA_FILES": "threads" if way == "noria-threads" else "ring"}
        words = [sys.executable, str(PYTHON_PEERS / "file_work.py"), way, does, str(where)]
        cores = os.sched_getaffinity(0)
        value, stall = answer([*words, str(at.seconds)], TIMEOUT_SECONDS, cores, environment)
    return FileSample(value, stall=stall)


def row(
    name: str,
    does: str,
    on: str,
    goals: Mapping[str, float],
    unit: str = "/s",
    without: tuple[str, ...] = (),
) -> FileRow:
    """`on` is "cached", "large" or "log"; "" for a directory of its own, in a tmpfs with TMPFS."""
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
    """What is read: bytes that no file system could make smaller, and lines."""
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
    # Nothing is read from a device for the first time: what holds the disk may have a cache too.
    for name in ("large", "log"):
        with open(scratch / name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(MIB):
                pass


def verdicts(found: Found) -> dict[str, dict[str, float | str | bool]]:
    """Each goal: what it is compared with, what noria reached, and whether that is enough."""
    told: dict[str, dict[str, float | str | bool]] = {}
    assert isinstance(found.row, FileRow)
    for against, goal in found.row.goals.items():
        other = best(found) if against == BEST else against
        reached = Ratio.of(found.row, found.values("noria"), found.values(other or ""))
        if other and reached:
            middle = reached.middle
            told[against] = {"way": other, "goal": goal, "ratio": middle, "met": middle >= goal}
    return told


def stall(found: Found, way: str) -> str:
    """The median of the rounds; plain calls have no loop."""
    samples = [s.stall for s in found.samples.get(way, {}).values() if isinstance(s, FileSample)]
    return shown(None if way == "sync" else median(samples), ",.1f")


def amount(value: float | None, unit: str) -> str:
    """A figure with its unit."""
    if value is not None and unit == "B/s":
        return f"{value / MIB:,.0f} MiB/s"
    return figure(value, unit)


def tables(every: dict[str, Found], ways: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """What each way does and how many times that noria does; the stalls. Each with its head."""
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


def kept(file: str) -> dict[str, Found]:
    """What --json has written."""
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
    """Both, for a person."""
    lines, stalls = tables(every, ways)
    harness.table("what each does, and how many times that noria does", lines[0], lines[1:])
    harness.table("the loop's longest stall", stalls[0], stalls[1:])


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=2.0, help="of each measurement that is timed")
    p.add_argument("--rows", metavar="TEXT;...", help="parts of their names")
    p.add_argument("--ways", metavar="NAME,...", help=", ".join(WAYS))
    p.add_argument("--size", type=int, default=1024, help="MiB of the large file and the log")
    p.add_argument("--dir", type=Path, help="where the files are; a disk, not a tmpfs")
    p.add_argument("--json", metavar="FILE", help="write every measurement there")
    p.add_argument("--quick", action="store_true", help="does it run? the figures mean little")
    p.add_argument("--markdown", metavar="FILE", help="only print the tables of that --json FILE")
    p.add_argument("--list", action="store_true", help="print the rows' names")
    return p


def main() -> None:
    """The command."""
    options = parser().parse_args()
    if options.markdown:
        for lines in tables(kept(options.markdown), list(WAYS)):
            for line in lines:
                print(f"| {' | '.join(line)} |")
            print()
        return
    if options.quick:
        options.rounds, options.seconds, options.size = 1, 0.2, 64
    rows = rows_like(options.rows, ROWS)
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
                            "none": found.none,
                            "goals": verdicts(found),
                        }
                        for name, found in every.items()
                    ],
                },
            )


if __name__ == "__main__":
    harness.run_main(main)
