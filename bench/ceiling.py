"""Measure where a message's processor time goes: kernel, event loop, Python, parser, OpenSSL.

Each server is loaded and sampled with perf. The share of the samples that belongs to a part, times
the server's processor time for one message, is the time of that part in µs for one message.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
from harness import BENCH, LIMIT, Unavailable, built, shown
from rows.loads import CpuShares, load_process
from rows.row import Place, server_command, serving
from rows.tls import certificate
from sampling import parts, perf
from sampling.parts import PARTS, Profile

from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.noise import NoiseMeter, noise_document

LOOPS = ("noria-epoll", "noria-io_uring", "uvloop")
KNOWN = (LIMIT, "asyncio", "uvloop", "rloop", "blazio", "noria", *LOOPS[:2])
CONNECTIONS = 100
START_SECONDS = 0.3  # perf needs about this long until it samples


@dataclass(frozen=True)
class Case:
    """A kind of server and its load."""

    kind: str  # of peers/loop_server.py
    load: tuple[str, ...]  # of load/exchange.c; or of load/connects.c
    tls: bool = False
    program: str = "exchange"
    limit: bool = False  # also the C server

    def words(self, port: int, seconds: float) -> list[str]:
        """Return the arguments of the load."""
        if self.program == "connects":
            return [str(port), "64", str(seconds)]
        return [
            str(port),
            str(CONNECTIONS),
            str(seconds),
            "tls" if self.tls else "plain",
            *self.load,
        ]


ECHO = ("echo", "1024")
CASES = {
    "echo": Case("protocol", ECHO, limit=True),
    "streams": Case("streams", ECHO),
    "TLS echo": Case("protocol", ECHO, tls=True),
    "HTTP": Case("reply", ("http",)),
    "HTTPS": Case("reply", ("http",), tls=True),
    "uvicorn": Case("uvicorn", ("http",)),
    "FastAPI": Case("fastapi", ("http",)),
    "aiohttp": Case("aiohttp", ("http",)),
    "connect, echo, close": Case("protocol", (), program="connects", limit=True),
}


@dataclass
class Measured:
    """One measurement."""

    rate: float  # messages a second
    cpu: float  # µs of the server's processor time for one message
    busy: float
    waiting: float
    profile: Profile

    def cost(self, part: str) -> float:
        """Return the µs of a part for one message."""
        return self.cpu * self.profile.parts[part] / self.profile.samples


@dataclass
class Found:
    """The measurements of one row on one loop, by round."""

    row: str
    loop: str
    rounds: dict[int, Measured] = field(default_factory=dict)

    def middle(self, value: Callable[[Measured], float]) -> float:
        """Return the median over the rounds."""
        return harness.median([value(each) for each in self.rounds.values()]) or 0.0

    def spread(self, value: Callable[[Measured], float]) -> tuple[float, float]:
        """Return the lowest and the highest over the rounds."""
        values = [value(each) for each in self.rounds.values()]
        return min(values), max(values)

    def total(self) -> Profile:
        """Return the samples of all rounds."""
        whole = Profile()
        for each in self.rounds.values():
            whole.samples += each.profile.samples
            whole.parts += each.profile.parts
            whole.places += each.profile.places
            whole.calls += each.profile.calls
            whole.functions += each.profile.functions
            whole.python += each.profile.python
        return whole


def measure(case: Case, loop: str, at: Place, options: argparse.Namespace) -> Measured:
    """Load a new server, sample it, and return what was found."""
    data = at.scratch / "perf.data"
    words = server_command(loop, case.kind, *(certificate(at) if case.tls else ()))
    if options.python and loop != LIMIT:
        words[1:1] = ["-X", "perf"]
    libraries = ("ssl", "crypto") if case.program == "exchange" else ()
    load = [str(built(BENCH / "load" / f"{case.program}.c", *libraries))]
    with serving(words, at) as (pid, port):
        # The load outlasts perf: its last samples must not be those of an idle server.
        load += case.words(port, at.seconds + 2 * START_SECONDS)
        with load_process(load, at) as process:
            assert process.stdout is not None
            result: list[str] = []
            shares = CpuShares(pid, process.pid)
            for line in process.stdout:
                if line == "begin\n":
                    shares.start()
                    with watched(at, pid, process.pid):
                        perf.record(pid, data, at.seconds, options.hertz)
                elif line.startswith("end "):
                    shares.stop()
                    result = line.split()
                    break
            _, errors = process.communicate()
            if not result or process.returncode:
                raise Unavailable((errors.strip().splitlines() or ["the load failed"])[-1])
    profile = Profile.of(perf.stacks(data))
    # CPython has no option for its place. perf script has read it.
    Path(f"/tmp/perf-{pid}.map").unlink(missing_ok=True)
    count, passed = int(result[1]), float(result[2])
    used = shares.server.user + shares.server.kernel
    if not count or not profile.samples:
        raise Unavailable("no message came back" if not count else "perf has no sample")
    return Measured(
        count / passed, used / count * 1e6, used / passed, shares.server.waiting / passed, profile
    )


@contextlib.contextmanager
def watched(at: Place, server: int, load: int) -> Iterator[None]:
    """Note what else uses the cores during the block, in which perf is run and ends."""
    if at.meter is None:
        yield
        return
    before = os.times()
    with at.meter.watch(server, load, os.getpid()):
        yield
    now = os.times()
    at.meter.own_seconds += now.children_user - before.children_user
    at.meter.own_seconds += now.children_system - before.children_system


def show(found: Sequence[Found]) -> None:
    """Print a table for each row."""
    columns = ["µs a message", "all", *PARTS, "messages/s", "busy"]
    lines = []
    for each in found:
        line = [f"{each.row}, {each.loop}", cell(each, lambda m: m.cpu)]
        line += [cell(each, lambda m, part=part: m.cost(part)) for part in PARTS]
        line += [f"{each.middle(lambda m: m.rate):,.0f}", f"{each.middle(lambda m: m.busy):.0%}"]
        lines.append(line)
    harness.table("processor time of the server: median (lowest–highest)", columns, lines)
    for part in PARTS:
        print(f"{part}: {parts.MEANING[part]}")


def cell(found: Found, value: Callable[[Measured], float]) -> str:
    """Format a median with its spread."""
    low, high = found.spread(value)
    if high < 0.005:
        return "–"
    middle = f"{found.middle(value):.2f}"
    return middle if low == high else f"{middle} ({low:.2f}–{high:.2f})"


def show_functions(found: Sequence[Found], count: int) -> None:
    """Print the functions with the most samples of each part, and the system calls."""
    for each in found:
        whole = each.total()
        scale = each.middle(lambda m: m.cpu) / whole.samples
        print(f"\n{each.row}, {each.loop}: {whole.samples} samples, µs a message")
        for part in PARTS:
            if not whole.parts[part]:
                continue
            places = {place: n for (of, place), n in whole.places.items() if of == part}
            inside = ", ".join(
                f"{place} {n * scale:.2f}" for place, n in Counter(places).most_common()
            )
            print(f"  {part} {whole.parts[part] * scale:.2f} ({inside})")
            if part == parts.KERNEL:
                calls = ", ".join(
                    f"{name} {n * scale:.2f}" for name, n in whole.calls.most_common(8)
                )
                print(f"    by system call: {calls}")
            functions = Counter(
                {name: n for (of, name), n in whole.functions.items() if of == part}
            )
            for name, n in functions.most_common(count):
                print(f"    {n * scale:7.3f}  {name}")


def show_python(found: Sequence[Found], count: int) -> None:
    """Print the packages of the Python functions, and their functions with the most samples."""
    for each in found:
        whole = each.total()
        scale = each.middle(lambda m: m.cpu) / whole.samples
        if not whole.python:
            continue
        print(f"\n{each.row}, {each.loop}: Python code by package, µs a message")
        packages: Counter[str] = Counter()
        for (package, _), n in whole.python.items():
            packages[package] += n
        for package, n in packages.most_common():
            print(f"  {n * scale:7.2f}  {package or 'unknown'}")
            functions = Counter(
                {name: n for (of, name), n in whole.python.items() if of == package}
            )
            for name, n in functions.most_common(count):
                print(f"    {n * scale:7.2f}  {name}")


def show_markdown(found: Sequence[Found]) -> None:
    """Print the table of docs/performance.md."""
    print("| row | loop | all | " + " | ".join(PARTS) + " |")
    print("|---" * (len(PARTS) + 3) + "|")
    for each in found:
        cells = [each.row, "C" if each.loop == LIMIT else each.loop]
        cells.append(cell(each, lambda m: m.cpu))
        for part in PARTS:
            value = each.middle(lambda m, part=part: m.cost(part))
            cells.append(shown(value if value >= 0.005 else None, ".2f"))
        print("| " + " | ".join(cells) + " |")


def as_json(found: Sequence[Found]) -> list[dict[str, Any]]:
    """Return every measurement as JSON values."""
    rows = []
    for each in found:
        whole = each.total()
        scale = each.middle(lambda m: m.cpu) / whole.samples
        places: dict[str, dict[str, float]] = {}
        for (part, place), n in whole.places.items():
            places.setdefault(part, {})[place] = n * scale
        columns: dict[str, Callable[[Measured], float]] = {
            "messages_per_second": lambda m: m.rate,
            "cpu_us": lambda m: m.cpu,
            "busy": lambda m: m.busy,
            "waiting": lambda m: m.waiting,
        }
        columns |= {
            f"{part.lower().replace(' ', '_')}_us": lambda m, part=part: m.cost(part)
            for part in PARTS
        }
        spreads = {name: each.spread(value) for name, value in columns.items()}
        rows.append(
            {
                "row": each.row,
                "loop": each.loop,
                **{name: each.middle(value) for name, value in columns.items()},
                "rounds": {
                    name: [value(m) for m in each.rounds.values()]
                    for name, value in columns.items()
                },
                "lowest": {name: low for name, (low, _) in spreads.items()},
                "highest": {name: high for name, (_, high) in spreads.items()},
                "samples": whole.samples,
                "places": places,
                "system_calls": {name: n * scale for name, n in whole.calls.most_common()},
                "python": [
                    {"package": package, "function": name, "us": n * scale}
                    for (package, name), n in whole.python.most_common(100)
                ],
                "functions": [
                    {"part": part, "function": name, "us": n * scale}
                    for (part, name), n in whole.functions.most_common(100)
                ],
            }
        )
    return rows


def turns(options: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """Yield (round, row, loop); each round starts with another loop."""
    loops = [*options.loops]
    steps = [
        (number, row, loop)
        for number in range(options.rounds)
        for row in options.rows
        for loop in loops[number % len(loops) :] + loops[: number % len(loops)]
        if loop != LIMIT or CASES[row].limit
    ]
    began = time.monotonic()
    for done, (number, row, loop) in enumerate(steps):
        harness.progress(done, len(steps), began, f"round {number + 1}: {row}, {loop}")
        yield number, row, loop
    harness.progress_end()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rows", metavar="NAME;...", help="; ".join(CASES))
    p.add_argument("--loops", metavar="NAME,...", help=", ".join(KNOWN))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.0, help="duration of each measurement")
    p.add_argument("--hertz", type=int, default=perf.HERTZ, help="samples a second")
    p.add_argument("--functions", type=int, metavar="N", help="print N functions of each part")
    p.add_argument(
        "--python",
        action="store_true",
        help="name the Python functions (python -X perf, which makes their calls slower)",
    )
    p.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    return p


def main() -> None:
    """Run the command."""
    p = parser()
    options = p.parse_args()
    options.loops = harness.parse_names(options.loops, KNOWN) if options.loops else [*LOOPS, LIMIT]
    wanted = [name.strip() for name in options.rows.split(";")] if options.rows else list(CASES)
    if unknown := [name for name in wanted if name not in CASES]:
        p.error(f"unknown row {unknown[0]!r}; known are {'; '.join(CASES)}")
    options.rows = wanted
    if options.rounds < 1:
        p.error("--rounds must be 1 or more")
    if options.python and sys.version_info < (3, 12):
        p.error("--python needs Python 3.12, which has the option -X perf")
    perf.check()
    raise_descriptor_limit()
    server, load = harness.cores()
    os.sched_setaffinity(0, {load})
    every = {(row, loop): Found(row, loop) for row in options.rows for loop in options.loops}
    skipped: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory(prefix="ceiling-") as scratch:
        meter = NoiseMeter({server, load})
        at = Place(server, load, options.seconds, Path(scratch), meter=meter)
        try:
            for number, row, loop in turns(options):
                if (row, loop) in skipped:
                    continue
                try:
                    every[row, loop].rounds[number] = measure(CASES[row], loop, at, options)
                except Unavailable as error:
                    harness.progress_end()
                    harness.log(f"{loop} is skipped for {row!r}: {error}")
                    skipped.add((row, loop))
        finally:
            harness.progress_end()
            found = [each for each in every.values() if each.rounds]
            if options.markdown:
                show_markdown(found)
            else:
                show(found)
            if options.functions:
                show_functions(found, options.functions)
            if options.python:
                show_python(found, options.functions or 5)
            noise = noise_document(meter, [])
            if noise["warning"]:
                print(noise["warning"])
            document = {"rounds": options.rounds, "seconds": options.seconds, "noise": noise}
            harness.write(options.json, document | {"rows": as_json(found)})


if __name__ == "__main__":
    harness.run_main(main)
