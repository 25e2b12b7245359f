"""``noria connect``: a client for a terminal and for pipes."""

import math
import os
import socket
import sys

import click

from noria.cli.errors import CommandError, connect_error
from noria.cli.param_types import Seconds


@click.command()
@click.argument("host", required=False)
@click.argument("port", required=False, type=click.IntRange(1, 65535))
@click.option("--unix", metavar="PATH", help="Connect to this Unix socket instead of a port.")
@click.option(
    "--timeout",
    type=Seconds(),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Time limit for connecting ('inf': none).",
)
@click.option(
    "--wait",
    type=Seconds(),
    default=2.0,
    show_default=True,
    metavar="S",
    help="In a pipe: after the end of the input, stop when the server has sent nothing for this "
    "time ('inf': only when it closes).",
)
@click.option("--no-newline", is_flag=True, help="On a terminal: send lines without a newline.")
def connect(
    host: str | None,
    port: int | None,
    unix: str | None,
    timeout: float,
    wait: float,
    no_newline: bool,
) -> None:
    """Connect to a server, send lines and show its replies.

    On a terminal there is a prompt with line editing and history. Each line is sent in UTF-8 with a
    newline; replies are shown as they arrive, bytes that are not UTF-8 as \\xNN. Ctrl-D ends the
    connection.

    In a pipe, standard input is sent unchanged, and what the server sends is written to standard
    output unchanged, until the server closes the connection.

    \b
    Examples:
      noria connect 127.0.0.1 9001
      noria connect --unix /tmp/echo.sock
      printf 'a\\nb\\n' | noria connect 127.0.0.1 9001
    """
    _check_address(host, port, unix)
    if sys.stdin is None or sys.stdout is None:  # the socket would get their descriptor
        raise CommandError("standard input and standard output must be open")
    sock = _connect(host or "", port or 0, unix, timeout)
    with sock:
        if os.isatty(0) and os.isatty(1):
            from noria.cli.connect.prompt import run_prompt

            reason = run_prompt(sock, newline=not no_newline)
        else:
            from noria.cli.connect.pipe import run_pipe

            reason = run_pipe(sock, wait)
    if reason.message:
        click.echo(f"noria: {reason.message}", err=True)
    if reason.status:
        raise click.exceptions.Exit(reason.status)


def _check_address(host: str | None, port: int | None, unix: str | None) -> None:
    """Raise UsageError unless there are HOST and PORT, or --unix."""
    if unix is not None:
        if host is not None:
            raise click.UsageError("give HOST PORT or --unix PATH, not both.")
        return
    if host is None:
        raise click.UsageError("give HOST and PORT, or --unix PATH.")
    if port is None:
        name, colon, number = host.rpartition(":")
        meant = f"{name.strip('[]')} {number}" if colon and number.isdecimal() else f"{host} 9001"
        raise click.UsageError(f"PORT is missing. Did you mean: noria connect {meant}")


def _connect(host: str, port: int, unix: str | None, timeout: float) -> socket.socket:
    """Return a connected, blocking socket. Raises CommandError."""
    limit = None if math.isinf(timeout) else timeout or 0.001  # 0 would mean non-blocking
    try:
        if unix is None:
            sock = socket.create_connection((host, port), limit)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock = _connect_unix(unix, limit)
    except OSError as error:
        raise connect_error(error, host, port, unix, timeout) from None
    except (UnicodeError, ValueError) as error:  # a label too long for DNS, a NUL in the path
        raise CommandError(f"cannot connect to {unix or host}: {error}") from None
    sock.settimeout(None)
    return sock


def _connect_unix(path: str, limit: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(limit)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
