"""What recording costs: the rows of noria compare loops with and without it, in paired rounds.

    python sight.py [--model MODEL] [--rounds N] [--seconds S] [--rows ROWS] [--json FILE]

A ratio of 0.97 means that a recorded and watched loop has 97% of the speed of one that is not.
Exit status: 0, or 3 if a row could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import harness
from harness import BENCH

from noria.compare.loops import rows, run

ROWS = "echo-protocol;call_soon;call_soon-batch;http-uvicorn"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="epoll")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--rows", default=ROWS, help="names or patterns, separated by ;")
    parser.add_argument("--json", type=Path, help="write the ratios to a file")
    arguments = parser.parse_args()
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(BENCH), path]))
    on, off = f"recorded-{arguments.model}", f"noria-{arguments.model}"
    chosen = rows.select(arguments.rows.split(";"))
    found, lines, status = {}, [], 0
    began = time.monotonic()
    with run.at_place(seconds=arguments.seconds) as place:
        for number, row in enumerate(chosen):
            harness.progress(number, len(chosen), began, row.name)
            measured = run.measure_row(row, [on, off], place, arguments.rounds)
            ratio = measured.ratio(on, off)
            if ratio is None:
                reasons = {**measured.unavailable, **measured.failures}
                lines.append([row.name, "–", "; ".join(map(str, reasons.values()))])
                status = 3
                continue
            found[row.name] = asdict(ratio)
            lines.append([row.name, f"{ratio.median:.3f}", f"{ratio.low:.3f}–{ratio.high:.3f}"])
    harness.progress_end()
    harness.table(
        f"speed of {off} with the recorder on, beside off", ["row", "ratio", "interval"], lines
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
