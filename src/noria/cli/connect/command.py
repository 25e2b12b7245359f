"""``noria connect``: a client for people at a prompt, and for pipes."""

import math
import os
import socket
import sys
from typing import Any

import click

from noria.cli.errors import Problem, connecting

FOREVER = 1e9  # seconds; what is longer overflows the system's timeouts


class Seconds(click.FloatRange):
    """A number of seconds from zero to *most*; ``inf`` for no limit, and never NaN."""

    name = "seconds"

    def __init__(self, most: float | None = None) -> None:
        super().__init__(min=0, max=most)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or wrong use."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        number = float(super().convert(number, param, ctx))
        return number if number < FOREVER else math.inf


@click.command()
@click.argument("host", required=False)
@click.argument("port", required=False, type=click.IntRange(1, 65535))
@click.option("--unix", metavar="PATH", help="Connect to this Unix socket, in place of HOST PORT.")
@click.option(
    "--timeout",
    type=Seconds(),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Give up connecting after so many seconds ('inf': never).",
)
@click.option(
    "--wait",
    type=Seconds(),
    default=2.0,
    show_default=True,
    metavar="S",
    help="In a pipe: after the end of the input, stop when nothing has come for so long "
    "('inf': only when the server closes).",
)
@click.option(
    "--no-newline", is_flag=True, help="At the prompt: send a line as typed, without its newline."
)
def connect(
    host: str | None,
    port: int | None,
    unix: str | None,
    timeout: float,
    wait: float,
    no_newline: bool,
) -> None:
    """Talk to a server: a line sent, the reply shown.

    On a terminal it has a prompt with line editing and history. Every line is sent in UTF-8 with a
    newline; replies are shown as they arrive, bytes that are not UTF-8 as \\xNN. Ctrl-D ends.

    In a pipe it has no prompt: standard input is sent as it is, what comes back goes to standard
    output byte for byte, until the server closes.

    \b
    Examples:
      noria connect 127.0.0.1 9001
      noria connect --unix /tmp/echo.sock
      printf 'a\\nb\\n' | noria connect 127.0.0.1 9001
    """
    _check(host, port, unix)
    if sys.stdin is None or sys.stdout is None:  # the socket would take their number
        raise Problem("standard input and standard output must be open")
    sock = _open(host or "", port or 0, unix, timeout)
    with sock:
        if os.isatty(0) and os.isatty(1):
            from noria.cli.connect.interactive import talk

            end = talk(sock, newline=not no_newline)
        else:
            from noria.cli.connect.pipe import pipe

            end = pipe(sock, wait)
    if end.message:
        click.echo(f"noria: {end.message}", err=True)
    if end.status:
        raise click.exceptions.Exit(end.status)


def _check(host: str | None, port: int | None, unix: str | None) -> None:
    """HOST and PORT, or --unix, and not both."""
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


def _open(host: str, port: int, unix: str | None, timeout: float) -> socket.socket:
    """A connected, blocking socket."""
    limit = None if math.isinf(timeout) else timeout or 0.001  # 0 would mean non-blocking
    try:
        if unix is None:
            sock = socket.create_connection((host, port), limit)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock = _open_unix(unix, limit)
    except OSError as error:
        raise connecting(error, host, port, unix, timeout) from None
    except (UnicodeError, ValueError) as error:  # a label too long for DNS, a NUL in the path
        raise Problem(f"cannot connect to {unix or host}: {error}") from None
    sock.settimeout(None)
    return sock


def _open_unix(path: str, limit: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(limit)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
