"""Run other projects' own test suites on noria's event loop; `.ci/suites` starts this.

Each suite (suites.toml) comes from the package index, is unpacked into a temporary folder and runs
unchanged, on noria's default model and on epoll. exceptions.toml lists the tests that fail, with
reasons. The run fails if another test fails, and if a listed one passes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import shutil
import signal
import sys
import tempfile
import tomllib

import upstream_run
from upstream_run import Run
from upstream_sources import Unavailable, make_venv, unpack

HERE = pathlib.Path(__file__).resolve().parent
MODELS = ("auto", "epoll")
ORACLE = "asyncio"
COLUMNS = ("suite", "model", "passed", "failed", "skipped", "flaky", "unexpected", "seconds")


def main() -> int:
    """Parse the arguments, run the suites, print a table; return the exit status."""
    suites = read("suites.toml")
    exceptions = read("exceptions.toml")
    arguments = parse(tuple(suites["suite"]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the tests' processes, too
    models = arguments.model or ([ORACLE] if arguments.oracle else list(MODELS))
    work = pathlib.Path(arguments.work or tempfile.mkdtemp(prefix="noria-suites-")).resolve()
    runs: list[Run] = []
    complaints: list[str] = []

    def run_suite(name: str, python: pathlib.Path, source: pathlib.Path) -> None:
        for model in models:
            suite, listed = suites["suite"][name], exceptions.get(name, [])
            run = Run(name, suite, model, python, source, listed, arguments.k)
            runs.append(run)
            lines = [f"== {name} on {model}: {run.seconds} s", *run.messages]
            print("\n".join(lines), flush=True)

    pool = concurrent.futures.ThreadPoolExecutor(arguments.jobs)
    try:
        work.mkdir(parents=True, exist_ok=True)
        jobs = []
        for name in arguments.only or suites["suite"]:
            suite = suites["suite"][name]
            try:
                python = make_venv(work, suite["venv"], suites)
                source = unpack(work, name, suite, python)
            except Unavailable as problem:
                complaints.append(f"{name}: not run: {problem}")
            else:
                jobs.append(pool.submit(run_suite, name, python, source))
        for job in jobs:
            job.result()
    finally:
        upstream_run.stop()
        pool.shutdown(cancel_futures=True)
        if not arguments.work:
            shutil.rmtree(work, ignore_errors=True)
    order = list(suites["suite"])
    runs.sort(key=lambda run: (order.index(run.name), models.index(run.model)))
    print_table([run.row() for run in runs])
    complaints += [complaint for run in runs for complaint in run.complaints]
    print("\n".join(complaints))
    return 1 if complaints else 0


def parse(names: tuple[str, ...]) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog=".ci/suites", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=names, help="run this suite (repeatable)"
    )
    parser.add_argument("--model", action="append", help="run on this model (repeatable)")
    parser.add_argument(
        "--oracle", action="store_true", help="run on asyncio's own loop, to have its numbers"
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="pytest's -k; lists are not checked then")
    parser.add_argument("--jobs", type=int, default=3, help="suites that run at a time (3)")
    parser.add_argument(
        "--work", metavar="DIR", help="a folder for downloads, environments and logs that is kept"
    )
    return parser.parse_args()


def read(name: str) -> dict[str, dict]:
    """The content of a TOML file beside this one."""
    return tomllib.loads((HERE / name).read_text())


def print_table(rows: list[dict[str, object]]) -> None:
    """Print the rows, aligned."""
    lines = [COLUMNS, *(tuple(str(row[column]) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    print()
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
