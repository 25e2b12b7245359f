"""What recording costs: the rows of noria compare loops with and without it, in paired rounds.

    python sight.py [--model MODEL] [--rounds N] [--seconds S] [--rows ROWS] [--base SRC] [--json F]

A ratio of 0.97 means that a recorded and watched loop has 97% of the speed of one that is not. With
--base, a loop that is not recorded is also compared with another build of noria: the folder `src`
of a checkout without a recorder that is built in place. At the end, the time of one record, in ns.
Exit status: 0, or 3 if a row could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import harness
from harness import BENCH

import noria
from noria._core.recorder.ring import Recorder
from noria.compare.loops import rows, run
from noria.compare.loops.found import Found

ROWS = "echo-protocol;call_soon;call_soon-batch;http-uvicorn"
EVENTS = 100_000
EVENT_ROUNDS = 25


def event_ns(model: str) -> tuple[float, float, float]:
    """Return the ns that the record of a handler costs: median, quartiles.

    Two callbacks of different code take turns, so that none shares a reading of the clock.
    """
    loop = noria.new_event_loop(model)
    recorder = Recorder(1 << 16, model)

    def first(left: int) -> None:
        for _ in range(50):
            loop.call_soon(int)
            loop.call_soon(float)
        if left:
            loop.call_soon(first, left - 1)
        else:
            loop.stop()

    def measure() -> float:
        loop.call_soon(first, EVENTS // 100)
        began = time.perf_counter_ns()
        loop.run_forever()
        return (time.perf_counter_ns() - began) / EVENTS

    costs = []
    for _ in range(EVENT_ROUNDS):
        without = measure()
        loop.attach_recorder(recorder)
        costs.append(measure() - without)
        loop.detach_recorder()
    loop.close()
    recorder.close()
    low, median, high = statistics.quantiles(costs, n=4)
    return median, low, high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="epoll")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--rows", default=ROWS, help="names or patterns, separated by ;")
    parser.add_argument("--base", type=Path, metavar="SRC", help="src of another build")
    parser.add_argument("--json", type=Path, help="write the ratios to a file")
    arguments = parser.parse_args()
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BENCH), path]))
    on, off = f"recorded-{arguments.model}", f"noria-{arguments.model}"
    pairs = {"on/off": (on, off)}
    if arguments.base:
        if not (arguments.base / "noria").is_dir():
            parser.error(f"{arguments.base} has no package noria: give the directory src")
        os.environ["NORIA_UNRECORDED"] = str(arguments.base.resolve())
        pairs["off/base"] = (off, f"unrecorded-{arguments.model}")
    loops = list(dict.fromkeys(loop for pair in pairs.values() for loop in pair))
    chosen = rows.select(arguments.rows.split(";"))
    found: dict[str, object] = {}
    lines, status = [], 0
    began = time.monotonic()
    with run.at_place(seconds=arguments.seconds) as place:
        for number, row in enumerate(chosen):
            harness.progress(number, len(chosen), began, row.name)
            measured = run.measure_row(row, loops, place, arguments.rounds)
            for label, pair in pairs.items():
                cells = ratio_cells(measured, pair)
                status = status or (3 if cells is None else 0)
                lines.append([row.name, label, *(cells or ("–", reasons(measured)))])
                ratio = measured.ratio(*pair)
                if ratio is not None:
                    found[f"{row.name} {label}"] = asdict(ratio)
    harness.progress_end()
    harness.table(
        f"speed of {arguments.model}: recorder on beside off"
        + (", off beside a build without it" if arguments.base else ""),
        ["row", "loops", "ratio", "interval"],
        lines,
    )
    median, low, high = event_ns(arguments.model)
    found["event_ns"] = {"median": median, "low": low, "high": high}
    print(f"a record of a handler: {median:.1f} ns ({low:.1f}–{high:.1f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return status


def ratio_cells(measured: Found, pair: tuple[str, str]) -> tuple[str, str] | None:
    """Return a ratio and its interval as text; None if it was not measured."""
    ratio = measured.ratio(*pair)
    if ratio is None:
        return None
    return f"{ratio.median:.3f}", f"{ratio.low:.3f}–{ratio.high:.3f}"


def reasons(measured: Found) -> str:
    """Return why loops could not be measured."""
    return "; ".join(map(str, {**measured.unavailable, **measured.failures}.values()))


if __name__ == "__main__":
    sys.exit(main())
