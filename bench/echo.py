"""Measure messages a second of echo servers: noria, its peers, and a C server as the limit.

README.md explains the columns.
"""

from __future__ import annotations

import argparse
from typing import Any

import harness

# Each row's load; the keys are options of the load generator.
ROWS: dict[str, dict[str, int]] = {
    "1k-100": {"size": 1024, "connections": 100},
    "1k-1000": {"size": 1024, "connections": 1000},
    "128-100": {"size": 128, "connections": 100},
    "128-1000": {"size": 128, "connections": 1000},
    "100k-10": {"size": 100_000, "connections": 10},
    "128-50x16": {"size": 128, "connections": 50, "depth": 16},
}
COLUMNS = (
    *("server", "messages/s", "of C", "of uvloop", "user µs", "over C", "kernel µs", "busy"),
    *("p50 µs", "p99 µs", "served"),
)

Found = dict[str, list[harness.Measurement]]  # by server, one measurement a round


def title(name: str) -> str:
    """Return the title of a row's table."""
    row = ROWS[name]
    depth = f", {row['depth']} in flight" if "depth" in row else ""
    return f"{name}: {row['size']:,} bytes, {row['connections']} connections{depth}"


def cpu(found: list[harness.Measurement], kind: str) -> float | None:
    """Return µs of CPU time a message, over all rounds, as short runs sample it coarsely."""
    messages = sum(m["messages"] for m in found)
    return sum(m[f"{kind}_seconds"] for m in found) / messages * 1e6 if messages else None


def summary(found: Found) -> list[dict[str, Any]]:
    """Return a line per server: medians, ratios within rounds, CPU time."""
    rates = {
        server: {m["round"]: m["messages_per_second"] for m in measured}
        for server, measured in found.items()
    }
    limit = cpu(found[harness.LIMIT], "user") if found.get(harness.LIMIT) else None
    lines = []
    for server, measured in found.items():
        user = cpu(measured, "user")
        lines.append(
            {
                "server": server,
                "messages_per_second": harness.median(list(rates[server].values())),
                "of_limit": harness.ratio(rates[server], rates.get(harness.LIMIT, {})),
                "of_uvloop": harness.ratio(rates[server], rates.get("uvloop", {})),
                "user_us": user,
                "user_us_over_limit": None if user is None or limit is None else user - limit,
                "kernel_us": cpu(measured, "kernel"),
                "busy": harness.median(
                    [(m["user_seconds"] + m["kernel_seconds"]) / m["seconds"] for m in measured]
                ),
                "p50_us": harness.median([m["p50_us"] for m in measured if m["messages"]]),
                "p99_us": harness.median([m["p99_us"] for m in measured if m["messages"]]),
                "served": min(m["served"] for m in measured),
            }
        )
    return lines


def show(name: str, lines: list[dict[str, Any]]) -> None:
    """Print one row's table."""
    patterns = (",.0f", ".3f", ".3f", ".2f", "+.2f", ".2f", ".0%", ",.0f", ",.0f", "d")
    harness.table(
        title(name),
        COLUMNS,
        [
            [line["server"]]
            + [
                harness.shown(value, pattern)
                for value, pattern in zip(list(line.values())[1:], patterns, strict=True)
            ]
            for line in lines
        ],
    )


def main() -> None:
    """Run the command."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=1.5, help="duration of each measurement")
    p.add_argument("--rows", metavar="NAME,...", help=", ".join(ROWS))
    p.add_argument("--servers", metavar="NAME,...", help=", ".join(harness.SERVERS))
    p.add_argument("--json", metavar="FILE", help="write every measurement to FILE")
    p.add_argument(
        "--quick", action="store_true", help="one round of 0.3 seconds, to check that it runs"
    )
    options = p.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.3
    rows = harness.parse_names(options.rows, list(ROWS))
    servers = harness.parse_names(options.servers, harness.SERVERS)
    server_core, load_core = harness.cores()
    found: dict[str, Found] = {row: {} for row in rows}

    def measure(row: str, server: str) -> harness.Measurement:
        with harness.serving(server, server_core) as (pid, port):
            return harness.load(
                port, load_core, pid=pid, seconds=options.seconds, warmup=0.2, **ROWS[row]
            )

    try:
        for number, row, server, measured in harness.rounds(options.rounds, rows, servers, measure):
            found[row].setdefault(server, []).append({"round": number} | measured)
    finally:
        harness.progress_end()
        result = []
        for row, by_server in found.items():
            by_server = {s: by_server[s] for s in servers if s in by_server}
            if by_server:
                lines = summary(by_server)
                show(row, lines)
                result.append({"row": row, "summary": lines, "measurements": by_server})
        harness.write(options.json, {"rounds": options.rounds, "rows": result})


if __name__ == "__main__":
    harness.run_main(main)
