"""Files read and written in several ways, interleaved, and how long their loops were held up."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
from harness import BENCH, Unable, median, shown
from rows.show import figure

MIB = 1 << 20
PEERS = ("blazio", "pool", "aiofiles", "sync")
WAYS = ("noria", "noria-threads", "noria-asyncio", *PEERS)
LINE = 100  # bytes, on average, of the log
TMPFS = "/dev/shm"
PATIENCE = 600.0  # seconds for the slowest


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured, on which file (or in a directory), and what noria is to reach."""

    name: str
    does: str  # a row of peers/file_work.py
    on: str  # "cached", "large", "log"; "" for a directory of its own, in a tmpfs with TMPFS
    unit: str
    goals: dict[str, float]  # times as good as that way; "best" is the best of the others
    without: tuple[str, ...] = ()


ROWS = (
    Row("pread 4 KiB, 64 at once", "cached", "cached", "/s", {"blazio": 1.25, "pool": 7.0}),
    Row("pread 4 KiB, tasks of 64", "gathered", "cached", "/s", {"blazio": 1.25, "pool": 7.0}),
    Row("pread 4 KiB, not in memory", "uncached", "large", "/s", {"best": 1.0}),
    Row("1 MiB after the other", "sequential", "large", "B/s", {"best": 1.0}),
    Row("10,000 small files", "small", "", "/s", {"aiofiles": 5.0}),
    Row("10,000 small files in a tmpfs", "small", TMPFS, "/s", {"aiofiles": 5.0}),
    Row("lines of a log", "lines", "log", "/s", {"aiofiles": 5.0}, ("pool",)),
    Row("write and fsync, 64 at once", "durable", "", "/s", {"best": 1.0}),
    Row("stat, 64 at once", "stats", "cached", "/s", {}, ("blazio",)),
    Row("mkdir, rename, rmdir, 64 at once", "names", TMPFS, "/s", {}, ("blazio",)),
)
Samples = dict[str, dict[int, tuple[float, float]]]  # by way and round: the figure, the stall in ms


def measure(row: Row, way: str, scratch: Path, seconds: float) -> tuple[float, float]:
    """The figure and the loop's longest stall in milliseconds. Raises Unable."""
    package = {"blazio": "blazio", "aiofiles": "aiofiles"}.get(way)
    if package and importlib.util.find_spec(package) is None:
        raise Unable(f"not installed: pip install {package}")
    where = scratch / row.on
    own = row.on in ("", TMPFS)
    if own:
        where = Path(tempfile.mkdtemp(prefix="files-", dir=row.on or scratch))
    environment = os.environ | {"NORIA_FILES": "threads" if way == "noria-threads" else "ring"}
    words = [sys.executable, str(BENCH / "peers" / "file_work.py"), way, row.does, str(where)]
    try:
        done = subprocess.run(
            [*words, str(seconds)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise Unable(f"it did not end in {PATIENCE:.0f} s") from None
    finally:
        if own:
            shutil.rmtree(where)
    if done.returncode:
        raise Unable((done.stderr.strip().splitlines() or ["it failed"])[-1])
    value, stall = done.stdout.split()
    return float(value), float(stall)


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


def ratio(mine: dict[int, tuple[float, float]], other: dict[int, tuple[float, float]]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(mine[n][0] / other[n][0] for n in mine if n in other)


def best(samples: Samples) -> str | None:
    """The best of those that are not noria, by its median."""
    middles = {
        way: statistics.median(value for value, _ in rounds.values())
        for way, rounds in samples.items()
        if way in PEERS
    }
    return max(middles, key=lambda way: middles[way]) if middles else None


def verdict(row: Row, samples: Samples) -> dict[str, dict[str, float | str | bool]]:
    """Each goal: what it is compared with, what noria reached, and whether that is enough."""
    found: dict[str, dict[str, float | str | bool]] = {}
    for against, goal in row.goals.items():
        other = best(samples) if against == "best" else against
        if other not in samples or "noria" not in samples:
            continue
        reached = ratio(samples["noria"], samples[other])
        found[against] = {"way": other, "goal": goal, "ratio": reached, "met": reached >= goal}
    return found


def tables(found: dict[str, Samples], ways: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """What each way does and how many times that noria does; the stalls. Each with its head."""
    lines = [["", *ways, "noria"]]
    stalls = [["ms", *ways]]
    for row in ROWS:
        samples = found.get(row.name) or {}
        if not samples:
            continue
        cells, held = [row.name], [row.name]
        for way in ways:
            rounds = samples.get(way, {})
            value = median([v for v, _ in rounds.values()])
            if value is None:
                cells.append("–")
            elif row.unit == "B/s":
                cells.append(f"{value / MIB:,.0f} MiB/s")
            else:
                cells.append(figure(value, row.unit))
            stall = median([s for _, s in rounds.values()])
            held.append(shown(None if way == "sync" else stall, ",.1f"))
        marks = []
        for against, each in verdict(row, samples).items():
            name = each["way"] if against == "best" else against
            sign = "" if each["met"] else ", not met"
            marks.append(f"{each['ratio']:.2f} {name} (goal {each['goal']:g}{sign})")
        lines.append([*cells, "; ".join(marks)])
        stalls.append(held)
    return lines, stalls


def print_tables(found: dict[str, Samples], ways: list[str]) -> None:
    """Both, for a person."""
    lines, stalls = tables(found, ways)
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
        found = json.loads(Path(options.markdown).read_text())
        for lines in tables({row["name"]: row["samples"] for row in found["rows"]}, list(WAYS)):
            for line in lines:
                print(f"| {' | '.join(line)} |")
            print()
        return
    if options.quick:
        options.rounds, options.seconds, options.size = 1, 0.2, 64
    wanted = [part.strip().lower() for part in (options.rows or "").split(";")]
    rows = [row for row in ROWS if any(part in row.name.lower() for part in wanted)]
    if options.list or not rows:
        print("\n".join(row.name for row in ROWS))
        return
    ways = harness.chosen(options.ways, WAYS)
    steps = [
        (number, row, way)
        for number in range(options.rounds)
        for row in rows
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]
        if way not in row.without
    ]
    found: dict[str, Samples] = {row.name: {} for row in rows}
    none: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory(prefix="files-", dir=options.dir) as name:
        make_files(Path(name), max(options.size, 16) * MIB)
        began = time.monotonic()
        try:
            for done, (number, row, way) in enumerate(steps):
                harness.progress(done, len(steps), began, f"round {number + 1}: {row.name}, {way}")
                if (row.name, way) in none:
                    continue
                try:
                    sample = measure(row, way, Path(name), options.seconds)
                except Unable as error:
                    harness.progress_end()
                    harness.say(f"{way} is left out of {row.name!r}: {error}")
                    none.add((row.name, way))
                else:
                    found[row.name].setdefault(way, {})[number] = sample
        finally:
            harness.progress_end()
            print_tables(found, ways)
            harness.write(
                options.json,
                {
                    "rounds": options.rounds,
                    "seconds": options.seconds,
                    "rows": [
                        asdict(row)
                        | {"samples": found[row.name], "met": verdict(row, found[row.name])}
                        for row in rows
                    ],
                },
            )


if __name__ == "__main__":
    harness.guarded(main)
