"""``noria top``: what a process's loops do, live."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from noria.cli.errors import CommandError
from noria.cli.param_types import Address, Seconds
from noria.cli.standard_output import is_utf8
from noria.cli.threshold_option import threshold_option

if TYPE_CHECKING:
    from noria.sight.client import Client
    from noria.sight.top.session import Session

LEAST_INTERVAL = 0.1  # seconds: an observation costs the observed process up to some ms


@click.command()
@click.argument("target", metavar="[PID|SOCKET]", required=False)
@click.option("--list", "list_", is_flag=True, help="List the processes that can be observed.")
@click.option("--once", is_flag=True, help="Observe once, print the figures as text, and exit.")
@click.option("--text", is_flag=True, help="Print the figures as text, again at each interval.")
@click.option(
    "--json", is_flag=True, help="Print one JSON object in a line at each interval; see --once."
)
@click.option(
    "--interval",
    type=Seconds(3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between observations, at least 0.1.",
)
@click.option(
    "--dump",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the last seconds of the process to FILE, for 'noria report', and exit. It need not "
    "answer.",
)
@click.option(
    "--web",
    metavar="[HOST:]PORT",
    type=Address(),
    help="Serve the figures as a page; HOST is 127.0.0.1 if left out; PORT 0 takes a free one.",
)
@threshold_option
def top(
    target: str | None,
    list_: bool,
    once: bool,
    text: bool,
    json: bool,
    interval: float,
    dump: str | None,
    web: tuple[str, int] | None,
) -> None:
    """Show what the event loop of a running process is doing.

    The process must have been started with 'noria run', or call noria.watch(). Without PID or
    SOCKET, the only such process is shown; if there are several, choose one.

    Keys are shown in the last line; '?' explains them. If standard output is no terminal, or TERM
    is "dumb", the figures are printed as with --text.

    \b
    Examples:
      noria top                            show the only process, or choose one
      noria top --list                     list the processes
      noria top 4711 --once                print all figures
      noria top 4711 --json | jq .loops[0].rates.utilization
      noria top 4711 --dump last.noria     keep its last seconds for noria report
    """
    from noria.cli.top import output

    _check_modes(list_, dump is not None, web is not None, json, text)
    if interval < LEAST_INTERVAL:
        raise click.UsageError(f"--interval must be at least {LEAST_INTERVAL} seconds.")
    if list_:
        output.print_list(json=json)
        return
    if dump is not None:
        output.dump(_connect_client(_target(target)), dump)
    elif web is not None:
        from noria.cli.top.web import serve

        serve(_connect(_target(target), interval), *web)
    elif json:
        output.print_json(_connect(_target(target), interval), once=once)
    elif once or text or not _is_screen():
        output.print_text(_connect(_target(target), interval), once=once)
    else:
        _run_app(target, interval)


def _check_modes(list_: bool, dump: bool, web: bool, json: bool, text: bool) -> None:
    """Raise UsageError if several modes are given; --list --json is one."""
    given = {
        "--list": list_,
        "--dump": dump,
        "--web": web,
        "--json": json and not list_,
        "--text": text,
    }
    chosen = [name for name, value in given.items() if value]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} cannot be used together.")


def _is_screen() -> bool:
    """Return whether the terminal can show a full-screen application."""
    return os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "dumb") not in ("dumb", "")


def _target(target: str | None) -> str:
    """Return the socket of the process to observe. Raises CommandError."""
    from noria.sight.top.processes import HOW, CannotObserve, processes, socket_of

    if target is not None:
        try:
            return socket_of(target)
        except CannotObserve as error:
            raise CommandError(str(error), error.hint) from error
    found = processes()
    if not found:
        raise CommandError("no process is watched by noria", HOW)
    if len(found) > 1:
        pids = ", ".join(str(process.pid) for process in found[:10])
        raise CommandError(
            f"{len(found)} processes can be observed: name one of {pids}",
            "'noria top --list' shows what they are",
        )
    return found[0].socket


def _connect(socket: str, interval: float) -> Session:
    """Return a session with a process. Raises CommandError."""
    from noria.sight.top.session import LiveSource, Session

    with _connection_errors(socket):
        return Session(LiveSource(socket), interval)


def _connect_client(socket: str) -> Client:
    """Return a connection to a process, which need not answer. Raises CommandError."""
    from noria.sight.client import Client
    from noria.sight.top.session import ANSWER_TIMEOUT

    with _connection_errors(socket):
        return Client.connect(socket, timeout=ANSWER_TIMEOUT)


@contextlib.contextmanager
def _connection_errors(socket: str) -> Iterator[None]:
    """Raise CommandError for the errors of a connection to a process."""
    from noria.errors import NoriaError
    from noria.sight.top.session import reason

    try:
        yield
    except TimeoutError as error:
        pid = Path(socket).stem
        raise CommandError(
            f"{socket}: the process does not answer: it is stopped, or C code holds the GIL",
            f"'noria top --dump FILE {pid if pid.isdecimal() else socket}' reads its last seconds "
            "all the same, for 'noria report'",
        ) from error
    except ConnectionRefusedError as error:
        raise CommandError(f"{socket}: the process has ended") from error
    except (NoriaError, OSError) as error:
        where = f"{socket}: " if isinstance(error, OSError) else ""
        raise CommandError(f"{where}{reason(error)}") from error


def _run_app(target: str | None, interval: float) -> None:
    """Run the terminal application until the user leaves it."""
    from noria.sight.top.processes import processes

    try:
        from noria.sight.top.app import TopApp
    except ModuleNotFoundError as error:
        raise CommandError(
            "the live view needs textual", "pip install 'noria[cli]', or use --text or --json"
        ) from error

    several = target is None and len(processes()) > 1
    session = None if several else _connect(_target(target), interval)
    app = TopApp(session, lambda socket: _connect(socket, interval), ascii=not is_utf8())
    app.run()
    if app.return_code:
        raise click.exceptions.Exit(app.return_code)
