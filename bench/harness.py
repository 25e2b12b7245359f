"""Shared by the benchmarks: servers in child processes, the load on another core, tables.

A server that is not installed, or that this machine refuses, is skipped with a message.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

BENCH = Path(__file__).resolve().parent
BUILD = BENCH / "build"
START_SECONDS = 10.0
ACCEPT_SECONDS = 5.0
IDLE_AT_ONCE = 250
PEERS = ("asyncio", "uvloop", "rloop", "blazio")
MODELS = ("auto", "epoll", "epoll-edge", "io_uring")

if importlib.util.find_spec("noria") is None:  # a checkout, built in place: the children's too
    sys.path.append(str(BENCH.parent / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [os.environ.get("PYTHONPATH"), str(BENCH.parent / "src")])
    )

from noria.compare.loops.found import LIMIT  # noqa: E402
from noria.compare.loops.network import waiting_to_be_accepted  # noqa: E402
from noria.compare.loops.row import Unavailable  # noqa: E402
from noria.compare.measure import cores as compare_cores  # noqa: E402

SERVERS = (LIMIT, *PEERS, *(f"noria-{model}" for model in MODELS))

Measurement = dict[str, Any]


def cores() -> tuple[int, int]:
    """Return a core for the server and one for the load."""
    found = compare_cores.pair()
    if found is None:
        log("only one core: server and load share it, so the figures mean little")
        (one,) = os.sched_getaffinity(0)
        return one, one
    return found


def log(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def built(source: Path, *libraries: str) -> Path:
    """Compile a C program if its source or a header is newer; return its path."""
    program = BUILD / source.stem
    newest = max(path.stat().st_mtime for path in (source, *source.parent.glob("*.h")))
    if not program.exists() or program.stat().st_mtime < newest:
        BUILD.mkdir(exist_ok=True)
        words = [os.environ.get("CC", "cc"), "-O2", "-o", str(program), str(source)]
        words += [f"-l{library}" for library in libraries]
        try:
            subprocess.run(words, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{source.name} cannot be compiled: {error.stderr.strip()}") from None
        except OSError as error:
            raise Unavailable(f"{source.name} cannot be compiled: {error}") from None
    return program


def build_limit() -> Path:
    """Compile the C echo server and return its path."""
    return built(BENCH / "limit" / "epoll_echo.c")


def command(server: str) -> list[str]:
    """The command that starts a server."""
    if server == LIMIT:
        return [str(build_limit())]
    if server in PEERS:
        if server != "asyncio" and importlib.util.find_spec(server) is None:
            raise Unavailable(f"not installed: pip install {server}")
        return [sys.executable, str(BENCH / "peers" / "protocol_echo.py"), server]
    kind, _, model = server.partition("-")
    if kind == "noria" and model:
        return [sys.executable, str(BENCH / "peers" / "noria_echo.py"), model]
    raise Unavailable(f"unknown server; known are {', '.join(SERVERS)}")


@contextlib.contextmanager
def serving(server: str, core: int) -> Iterator[tuple[int, int]]:
    """Run a server on a core for the time of the block; yield its pid and port."""
    with serving_command(command(server), core) as started:
        yield started


@contextlib.contextmanager
def serving_command(words: list[str], core: int) -> Iterator[tuple[int, int]]:
    """Like serving(), for a command that prints "listening PORT"."""
    with ready(words, core, read_port) as started:
        yield started


@contextlib.contextmanager
def serving_port(words: list[str], core: int, port: int) -> Iterator[tuple[int, int]]:
    """Like serving(), for a program that is ready when it accepts connections on `port`."""
    with ready(words, core, partial(accepts, port)) as started:
        yield started


def read_port(process: subprocess.Popen[str]) -> int | None:
    """Read the port from the server's line "listening PORT"; None if there is none."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline().split() if readable else []
    return int(line[1]) if line[:1] == ["listening"] else None


def accepts(port: int, process: subprocess.Popen[str]) -> int | None:
    """Wait until the port accepts a connection; return it, or None."""
    latest = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < latest:
        with contextlib.suppress(ConnectionRefusedError), socket.socket() as client:
            client.connect(("127.0.0.1", port))
            return port
        time.sleep(0.02)
    return None


def free_port() -> int:
    """A port of 127.0.0.1 that is free at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def ready(
    words: list[str], core: int, port_of: Callable[[subprocess.Popen[str]], int | None]
) -> Iterator[tuple[int, int]]:
    """Run a server on a core for the time of the block; `port_of` waits until it is ready."""
    with tempfile.TemporaryFile("w+") as errors:  # a pipe could fill up and block the server
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,  # Ctrl-C reaches this process only, which ends its children
            preexec_fn=partial(os.sched_setaffinity, 0, {core}),
        )
        try:
            port = port_of(process)
            if port is None:
                process.kill()
                process.wait()
                raise Unavailable(last_error_line(errors) or "it did not start")
            yield process.pid, port
        except Unavailable:
            # The error of a server that has ended explains more than that of the load.
            with contextlib.suppress(subprocess.TimeoutExpired):
                if process.wait(0.3) > 0 and (why := last_error_line(errors)):
                    raise Unavailable(why) from None
            raise
        finally:
            end(process)


def last_error_line(errors: TextIO) -> str:
    """The last line that a child wrote to standard error."""
    errors.seek(0)
    return (errors.read().strip().splitlines() or [""])[-1]


def end(process: subprocess.Popen[str]) -> None:
    """End a child: SIGTERM, then SIGKILL to its process group."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def load(
    port: int, core: int, *, pid: int, timeout: float = 30.0, **options: float | str
) -> Measurement:
    """Run the load generator on a core, with the options of its command line."""
    arguments = [sys.executable, "-m", "noria.compare.loadgen", "127.0.0.1", str(port)]
    arguments += ["--json", "--cpu", str(core), "--pid", str(pid)]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        out, errors = process.communicate(timeout=float(options["seconds"]) + timeout)
    except subprocess.TimeoutExpired:
        raise Unavailable("the load did not end") from None
    finally:
        end(process)
    if process.returncode:
        raise Unavailable((errors.strip().splitlines() or ["the load failed"])[-1])
    found: Measurement = json.loads(out)
    del found["histogram"]
    return found


@contextlib.contextmanager
def idle(port: int, count: int) -> Iterator[None]:
    """Hold connections that send nothing, all of them accepted by the server.

    They open in batches: some servers cannot handle an accept queue of thousands.
    """
    from noria.compare.loadgen.load import open_idle

    held = []
    with contextlib.ExitStack() as stack:
        while count > 0:
            some = open_idle("127.0.0.1", port, min(count, IDLE_AT_ONCE))
            held.append(stack.enter_context(some))
            count -= IDLE_AT_ONCE
            latest = time.monotonic() + ACCEPT_SECONDS
            while waiting_to_be_accepted(port):
                if time.monotonic() > latest:
                    raise Unavailable("it stopped accepting connections")
                time.sleep(0.002)
        yield
        if ended := sum(some.ended() for some in held):
            raise Unavailable(f"it closed {ended:,} connections")


def rounds(
    count: int, cases: Sequence[str], servers: Sequence[str], measure: Callable[[str, str], Any]
) -> Iterator[tuple[int, str, str, Any]]:
    """Measure each case on each server `count` times: case by case, the servers in turn.

    Their order rotates from round to round, so that none always follows the same one. A server
    that raises Unavailable is skipped from then on.
    """
    left = list(servers)
    done, total, began = 0, count * len(cases) * len(servers), time.monotonic()
    for number in range(count):
        for case in cases:
            turn = number % max(len(left), 1)
            for server in left[turn:] + left[:turn]:
                progress(done, total, began, f"round {number + 1}: {case}, {server}")
                done += 1
                try:
                    yield number, case, server, measure(case, server)
                except Unavailable as error:
                    progress_end()
                    log(f"{server} is skipped: {error}")
                    left.remove(server)
                    total -= (count - number) * len(cases)
    progress_end()


def progress(done: int, total: int, began: float, text: str) -> None:
    """Show a progress line that overwrites itself, only on a terminal."""
    if sys.stderr.isatty():
        share = min(done / total, 1.0) if total > 0 else 1.0
        so_far = time.monotonic() - began
        left = f", {so_far / share - so_far:.0f} s left" if done > 3 else ""
        print(f"\r\033[K{share:4.0%}  {text}{left}", end="", file=sys.stderr, flush=True)


def progress_end() -> None:
    """Clear the line of progress()."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float | None:
    """The median, or None without values."""
    return statistics.median(values) if values else None


def ratio(found: dict[int, float], base: dict[int, float]) -> float | None:
    """The median of the ratios within each round, which excludes drift between rounds."""
    return median([found[n] / base[n] for n in found if base.get(n)])


def shown(value: float | None, pattern: str) -> str:
    """A formatted number, or a dash for None."""
    return "–" if value is None else format(value, pattern)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with rich if it is installed, else in plain text."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"\n{title}")
        for row in [columns, *rows]:
            first, *others = (
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            print("  ".join([first, *others]).rstrip())
        return
    drawn = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    # In a file or pipe, the width is that of the table.
    whole = max(len(title), sum(widths) + 3 * len(widths) + 1)
    Console(width=None if sys.stdout.isatty() else whole).print(drawn)


def machine() -> Measurement:
    """The machine, versions, date and command of the figures."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "command": " ".join(sys.argv),
    }


def write(path: str | None, found: Measurement) -> None:
    """Write the figures as JSON, if `path` is given."""
    if path:
        where = Path(path)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(json.dumps(machine() | found, indent=1) + "\n")
        log(f"wrote {where}")


def parse_names(text: str | None, known: Sequence[str]) -> list[str]:
    """Parse comma-separated names, None for all; exit on an unknown one."""
    names = text.split(",") if text else list(known)
    for name in names:
        if name not in known:
            log(f"unknown: {name!r}; known are {', '.join(known)}")
            sys.exit(2)
    return names


def run_main(main: Callable[[], None]) -> None:
    """Run a benchmark; Ctrl-C and SIGTERM end it, after it has printed its results so far."""

    def interrupted(_number: int, _frame: object) -> None:
        # A second signal would interrupt the clean-up, and leave children and files behind.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupted)
    try:
        main()
    except KeyboardInterrupt:
        progress_end()
        log("interrupted")
        sys.exit(130)
