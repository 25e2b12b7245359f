"""Measure the cost of a message with 10,000 idle connections, compared with none."""

from __future__ import annotations

import argparse
from typing import Any

import harness

from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit

SERVERS = (harness.LIMIT, *harness.PEERS, "noria-epoll", "noria-epoll-edge", "noria-io_uring")
COLUMNS = ("server", "idle", "CPU µs", "elapsed µs", "CPU vs none", "elapsed vs none")


def costs(measured: harness.Measurement) -> dict[str, float]:
    """Return µs a message: the server's CPU time and the elapsed time."""
    messages = measured["messages"]
    if not messages:
        raise harness.Unavailable("the server echoed nothing")
    return {
        "cpu_us": (measured["user_seconds"] + measured["kernel_seconds"]) / messages * 1e6,
        "elapsed_us": measured["seconds"] / messages * 1e6,
    }


def main() -> None:
    """Run the command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.0, help="duration of each measurement")
    p.add_argument("--active", type=int, default=10, help="number of active connections")
    p.add_argument("--idle", default="0,10000", help="numbers of idle connections; must include 0")
    p.add_argument("--size", type=int, default=1024, help="message size in bytes")
    p.add_argument("--servers", metavar="NAME,...", help=", ".join(SERVERS))
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    p.add_argument(
        "--quick", action="store_true", help="one round of 0.3 seconds, to check that it runs"
    )
    options = p.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.3
    counts = options.idle.split(",")
    if "0" not in counts or not all(count.isdigit() for count in counts):
        p.error("--idle must be a list of numbers that includes 0, the base of the ratios")
    servers = harness.parse_names(options.servers, harness.SERVERS if options.servers else SERVERS)
    raise_descriptor_limit()
    server_core, load_core = harness.cores()
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}

    def measure(idle: str, server: str) -> dict[str, float]:
        with harness.serving(server, server_core) as (pid, port), harness.idle(port, int(idle)):
            return costs(
                harness.load(
                    port,
                    load_core,
                    pid=pid,
                    seconds=options.seconds,
                    warmup=0.2,
                    size=options.size,
                    connections=options.active,
                )
            )

    try:
        for number, idle, server, cost in harness.rounds(options.rounds, counts, servers, measure):
            found.setdefault((server, idle), {})[number] = cost
    finally:
        harness.progress_end()
        lines: list[dict[str, Any]] = []
        for server in servers:
            for idle in counts:
                if (server, idle) not in found:
                    continue
                line: dict[str, Any] = {"server": server, "idle": int(idle)}
                for kind in ("cpu_us", "elapsed_us"):
                    here, none = (
                        {n: cost[kind] for n, cost in found.get((server, i), {}).items()}
                        for i in (idle, "0")
                    )
                    line[kind] = harness.median(list(here.values()))
                    line[kind + "_beside_none"] = harness.ratio(here, none)
                lines.append(line)
        if lines:
            harness.table(
                f"{options.active} active connections, {options.size:,} bytes",
                COLUMNS,
                [
                    [line["server"], f"{line['idle']:,}"]
                    + [harness.shown(line[kind], ".2f") for kind in ("cpu_us", "elapsed_us")]
                    + [
                        harness.shown(line[kind + "_beside_none"], ".3f")
                        for kind in ("cpu_us", "elapsed_us")
                    ]
                    for line in lines
                ],
            )
        harness.write(
            options.json,
            {
                "summary": lines,
                "measurements": [
                    {"server": server, "idle": int(idle), "round": number} | cost
                    for (server, idle), by_round in found.items()
                    for number, cost in by_round.items()
                ],
            },
        )


if __name__ == "__main__":
    harness.run_main(main)
