"""Compare noria's bus with FastStream on NATS JetStream and Redis Streams."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import harness
from buses import brokers, raw

from noria.compare.loops.row import Unavailable

WORK = harness.BENCH / "buses" / "work.py"
LIMIT = "limit"
ONE_BY_ONE = ("faststream-uvloop", "faststream-asyncio", "faststream-serial")
# Its handler gets a list of events.
BATCH = "faststream-batch"
PEERS = (LIMIT, "noria", *ONE_BY_ONE, BATCH)
ROWS = ("publish", "batches", "handle", "latency")
GOAL = 2.0
TMPFS = "/dev/shm"
LATENCY_WARM_SECONDS = 1.0
# Events a second that are stored for a worker: more than it can handle.
STORED = {"noria": 60_000, "faststream": 30_000}
LIMIT_STORED = 200_000
CHILD_SECONDS = 60.0

Result = dict[str, Any]
# By case ("redis publish") and peer: the result of each round.
Found = dict[tuple[str, str], dict[int, Result]]


@contextlib.contextmanager
def child(peer: str, role: str, url: str, core: int, **options: float) -> Iterator[Any]:
    """Run a role of a peer on a core; yield its process."""
    words = [sys.executable, str(WORK), peer, role, url]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=partial(os.sched_setaffinity, 0, {core}),
    )
    try:
        yield process
    finally:
        harness.end(process)


def finish(process: subprocess.Popen[str]) -> Result:
    """Wait for a child and return what it has measured; nothing for those that only act."""
    try:
        out, errors = process.communicate(timeout=CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable("it did not end") from None
    if process.returncode:
        raise Unavailable((errors.strip().splitlines() or ["it failed"])[-1])
    lines = out.strip().splitlines()
    result: Result = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return result


def run(peer: str, role: str, url: str, core: int, **options: float) -> Result:
    """Run a role of a peer to its end."""
    with child(peer, role, url, core, **options) as process:
        return finish(process)


class Bench:
    """Measures one case of one peer, each with a new broker."""

    def __init__(self, cores: tuple[int, int], seconds: float, rate: float, where: str | None):
        self.worker_core, self.broker_core = cores
        self.seconds = seconds
        self.rate = rate
        self.where = where

    def measure(self, case: str, peer: str) -> Result | None:
        """Return the result; None for a row that the peer does not have."""
        broker, row = case.split()
        if peer == LIMIT:
            if row in ("batches", "latency"):
                return None
        elif peer in (BATCH, "faststream-serial") and row in ("publish", "batches"):
            return None
        with brokers.running(broker, self.broker_core, self.where) as url:
            if peer == LIMIT:
                return self.limit(url, row)
            if row == "handle":
                return self.handle(peer, url)
            if row == "latency":
                return self.latency(peer, url)
            return run(peer, row, url, self.worker_core, seconds=self.seconds)

    def limit(self, url: str, row: str) -> Result:
        """What the broker does for a client that has nothing else to do."""
        os.sched_setaffinity(0, {self.worker_core})
        if url.startswith("redis"):
            published = raw.redis_benchmark(url, int(LIMIT_STORED * max(1.0, self.seconds)))
            if row == "publish":
                return published
        with contextlib.closing(raw.connection(url)) as connection:
            if isinstance(connection, raw.NatsConnection):
                published = connection.publish(self.seconds * (2 if row == "handle" else 1))
                if row == "publish":
                    return published
            return connection.handle(self.seconds / 2)

    def handle(self, peer: str, url: str) -> Result:
        """Store events, then let a worker handle them."""
        run(peer, "seed", url, self.worker_core)
        is_noria = peer == "noria"
        stored = STORED["noria" if is_noria else "faststream"] * max(1.0, self.seconds)
        with contextlib.closing(raw.connection(url)) as connection:
            connection.copy(is_noria, int(stored))
        options = {"seconds": self.seconds, "count": int(stored)}
        return run(peer, "handle", url, self.worker_core, **options)

    def latency(self, peer: str, url: str) -> Result:
        """Emit at a fixed rate; the worker has a core of its own."""
        skipped = int(LATENCY_WARM_SECONDS * self.rate)
        count = skipped + int(self.seconds * self.rate)
        with child(peer, "work", url, self.worker_core, count=count) as worker:
            readable, _, _ = select.select([worker.stdout], [], [], CHILD_SECONDS)
            if not readable or worker.stdout.readline().strip() != "ready":
                finish(worker)
                raise Unavailable("the worker did not start")
            run(peer, "emit", url, self.broker_core, count=count, rate=self.rate)
            found = finish(worker)
        latencies = sorted(found["latencies"][skipped:])
        if len(latencies) < (count - skipped) * 0.99:
            raise Unavailable(f"{len(latencies):,} of {count - skipped:,} events arrived")
        centiles = statistics.quantiles(latencies, n=1000)
        return {
            "events": count,
            "cpu": found["cpu"],
            "p50": centiles[499],
            "p99": centiles[989],
            "p999": centiles[998],
        }


def rate(result: Result) -> float:
    return float(result["events"] / result["seconds"])


def values(found: Found, case: str, peer: str, name: str) -> dict[int, float]:
    """A figure of a case and peer, by round."""
    results = found.get((case, peer), {})
    if name == "rate":
        return {n: rate(each) for n, each in results.items() if "seconds" in each}
    if name == "cpu":
        measured = {n: each for n, each in results.items() if "cpu" in each}
        return {n: each["cpu"] / each["events"] * 1e6 for n, each in measured.items()}
    return {n: each[name] for n, each in results.items() if name in each}


def spread(found: dict[int, float], pattern: str, factor: float = 1.0) -> str:
    """The median with the lowest and the highest value."""
    if not found:
        return "–"
    numbers = [each * factor for each in found.values()]
    middle = harness.shown(harness.median(numbers), pattern)
    if len(numbers) == 1:
        return middle
    return f"{middle} ({min(numbers):{pattern}}–{max(numbers):{pattern}})"


def ratios(found: Found, case: str, peers: tuple[str, ...], name: str) -> dict[int, float]:
    """noria's figure divided by the best one of these peers in the same round."""
    best = max if name == "rate" else min
    others = [values(found, case, peer, name) for peer in peers]
    result = {}
    for number, own in values(found, case, "noria", name).items():
        rivals = [each[number] for each in others if number in each]
        if rivals:
            result[number] = own / best(rivals)
    return result


def print_tables(found: Found, cases: list[str], peers: list[str]) -> None:
    """Print a table for each case, and the ratios."""
    for case in cases:
        rows = []
        # A batch is as many publications.
        limit = values(found, case.replace("batches", "publish"), LIMIT, "rate")
        for peer in peers:
            if (case, peer) not in found:
                continue
            if case.endswith("latency"):
                names = ("p50", "p99", "p999")
                cells = [spread(values(found, case, peer, name), ".2f", 1e3) for name in names]
            else:
                cells = [spread(values(found, case, peer, "rate"), ",.0f")]
                of_limit = harness.ratio(values(found, case, peer, "rate"), limit)
                cells.append(harness.shown(of_limit, ".0%"))
            rows.append([peer, *cells, spread(values(found, case, peer, "cpu"), ".0f")])
        if case.endswith("latency"):
            columns = ["", "p50 ms", "p99 ms", "p99.9 ms", "worker CPU µs"]
        else:
            columns = ["", "events/s", "of the limit", "CPU µs"]
        if rows:
            harness.table(case, columns, rows)
    rows = []
    for case in cases:
        for name in ("p99" if case.endswith("latency") else "rate", "cpu"):
            one, batch = (ratios(found, case, each, name) for each in (ONE_BY_ONE, (BATCH,)))
            if one or batch:
                goal = {"p99": "≤ 1", "rate": f"≥ {GOAL:g}", "cpu": ""}[name]
                rows.append([case, name, spread(one, ".2f"), spread(batch, ".2f"), goal])
    if rows:
        columns = ["noria divided by", "", "the best FastStream", "FastStream, batches", "goal"]
        harness.table("In the same round", columns, rows)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    p.add_argument("--rate", type=float, default=2000.0, help="events a second in the row latency")
    p.add_argument("--brokers", metavar="NAME,...", help=", ".join(brokers.BROKERS))
    p.add_argument("--peers", metavar="NAME,...", help=", ".join(PEERS))
    p.add_argument("--rows", metavar="NAME,...", help=", ".join(ROWS))
    p.add_argument(
        "--dir",
        default=TMPFS if os.path.isdir(TMPFS) else None,
        help="for the files of the brokers; default: %(default)s, which keeps the disk out",
    )
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    p.add_argument("--quick", action="store_true", help="one round of a second: a trial run")
    return p


def main() -> None:
    options = parser().parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    if options.rounds < 1 or options.seconds <= 0 or options.rate <= 0:
        harness.log("--rounds, --seconds and --rate must be above 0")
        sys.exit(2)
    peers = harness.parse_names(options.peers, PEERS)
    rows = harness.parse_names(options.rows, ROWS)
    names = harness.parse_names(options.brokers, brokers.BROKERS)
    cases = [f"{broker} {row}" for broker in names for row in rows]
    bench = Bench(harness.cores(), options.seconds, options.rate, options.dir)
    os.sched_setaffinity(0, {bench.broker_core})
    found: Found = {}
    try:
        for number, case, peer, result in harness.rounds(
            options.rounds, cases, peers, bench.measure
        ):
            if result is not None:
                found.setdefault((case, peer), {})[number] = result
            os.sched_setaffinity(0, {bench.broker_core})
    finally:
        harness.progress_end()
        print_tables(found, cases, peers)
        harness.write(
            options.json,
            {
                "rounds": options.rounds,
                "seconds": options.seconds,
                "rate": options.rate,
                "measurements": [
                    {"case": case, "peer": peer, "round": number, **result}
                    for (case, peer), results in found.items()
                    for number, result in results.items()
                ],
            },
        )


if __name__ == "__main__":
    harness.run_main(main)
