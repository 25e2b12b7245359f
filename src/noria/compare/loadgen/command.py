"""The load generator as a command: ``python -m noria.compare.loadgen HOST PORT --seconds 2``.

It runs in its own process, on another core than the server. With ``--pid`` it also measures the
server's CPU time per message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import noria._core  # noqa: F401 - first: if it cannot be imported, it says why
from noria.compare.loadgen import load
from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.errors import NoriaError, error_message

# The low bits of a clock id select one of the process's CPU clocks (clock_getres(2)).
_USER_AND_KERNEL, _USER, _SCHEDULED = 0, 1, 2


class CpuTime:
    """User and kernel time of another process between start() and stop(), in seconds.

    The sum is exact: it is the scheduler's. The kernel samples its division into user and kernel
    time at timer ticks, so that needs runs of a second or more. `waiting` is the time for which its
    threads were runnable while others used the core.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.user = 0.0
        self.kernel = 0.0
        self.waiting = 0.0
        self._start = self._read()

    def _read(self) -> tuple[float, float, float, float]:
        both, user, exact = (
            time.clock_gettime((~self.pid << 3) | which)
            for which in (_USER_AND_KERNEL, _USER, _SCHEDULED)
        )
        return both, user, exact, self._waited()

    def _waited(self) -> float:
        nanoseconds = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            # A thread may have ended, or the kernel may have no schedstat.
            with contextlib.suppress(OSError, IndexError):
                nanoseconds += int(path.read_text().split()[1])
        return nanoseconds / 1e9

    def start(self) -> None:
        """Start counting."""
        self._start = self._read()

    def stop(self) -> None:
        """Stop counting; set `user`, `kernel` and `waiting`."""
        both, user, exact, self.waiting = (
            now - then for now, then in zip(self._read(), self._start, strict=True)
        )
        self.user = exact * user / both if both else 0.0
        self.kernel = exact - self.user


def parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    p = argparse.ArgumentParser(
        prog="python -m noria.compare.loadgen", description="Load an echo server and measure it."
    )
    p.add_argument("host", nargs="?", default="127.0.0.1")
    p.add_argument("port", nargs="?", type=int, default=0)
    p.add_argument("--unix", metavar="PATH", help="a Unix socket instead of HOST and PORT")
    p.add_argument("--connections", type=int, default=100, metavar="N")
    p.add_argument("--size", type=int, default=1024, metavar="BYTES", help="of one message")
    p.add_argument("--depth", type=int, default=1, metavar="N", help="messages kept in flight")
    p.add_argument("--seconds", type=float, default=2.0)
    p.add_argument("--warmup", type=float, default=0.1, metavar="SECONDS")
    p.add_argument(
        "--idle", type=int, default=0, metavar="N", help="idle connections to open besides"
    )
    p.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not compare echoes with messages",
    )
    p.add_argument("--cpu", type=int, metavar="N", help="run on this core only")
    p.add_argument("--pid", type=int, help="pid of the server: measure its CPU time too")
    p.add_argument("--json", action="store_true", help="print JSON instead of a line of text")
    return p


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Run the load; return the results, with the server's CPU time in microseconds per message."""
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    raise_descriptor_limit()
    cpu = CpuTime(options.pid) if options.pid else None
    own = CpuTime(os.getpid())

    def begin() -> None:
        own.start()
        if cpu:
            cpu.start()

    def end() -> None:
        own.stop()
        if cpu:
            cpu.stop()

    result = load.run(
        options.host,
        options.port,
        unix=options.unix,
        connections=options.connections,
        size=options.size,
        depth=options.depth,
        seconds=options.seconds,
        warmup=options.warmup,
        verify=options.verify,
        idle=options.idle,
        at_start=begin,
        at_end=end,
    )
    found = result.as_dict()
    found["load_waiting_seconds"] = own.waiting
    if cpu:
        found["user_seconds"] = cpu.user
        found["kernel_seconds"] = cpu.kernel
        found["waiting_seconds"] = cpu.waiting
        each = 1e6 / result.messages if result.messages else None
        found["user_us"] = cpu.user * each if each else None
        found["kernel_us"] = cpu.kernel * each if each else None
    return found


def in_words(found: dict[str, object]) -> str:
    """The results as one line of text."""
    if not found["messages"]:
        return "no echo was received"
    text = (
        "{messages_per_second:,.0f} messages/s, p50 {p50_us:,.0f} µs, p99 {p99_us:,.0f} µs, "
        "p99.9 {p999_us:,.0f} µs, {served} of {connections} connections served"
    ).format_map(found)
    if "user_us" in found:
        text += "; server {user_us:.2f} + {kernel_us:.2f} µs user + kernel".format_map(found)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (failure), 2 (wrong usage), 130 (Ctrl-C)."""
    p = parser()
    options = p.parse_args(arguments)
    if options.unix is None and not 0 < options.port < 65536:
        p.error("give HOST and PORT (1 to 65535), or --unix PATH")
    try:
        found = measure(options)
    except ValueError as error:
        p.error(str(error))
    except (OSError, NoriaError) as error:
        text = error_message(error)
        if options.json:
            number = error.errno if isinstance(error, OSError) else None
            kind = type(error).__name__
            print(json.dumps({"error": text, "errno": number, "kind": kind}))
        print(f"loadgen: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found) if options.json else in_words(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
