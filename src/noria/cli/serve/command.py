"""``noria serve``: the echo server, or the user's own, on any model."""

import errno
import json as jsonlib
import logging
import os
import time
from typing import Any

import click

from noria.cli.connect.command import Seconds
from noria.cli.default_group import Beside
from noria.cli.errors import listening
from noria.cli.param_types import ModelName
from noria.cli.serve.files import serve_files
from noria.cli.serve.target import load


@click.command(
    cls=Beside,
    files=serve_files,
    short_help="Run a server: files, echo, or a protocol of your own.",
)
@click.argument("target", metavar="files|echo|MODULE:PROTOCOL")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9001,
    show_default=True,
    help="The port to listen on; 0 takes any free one.",
)
@click.option("--unix", metavar="PATH", help="Listen on this Unix socket, in place of host, port.")
@click.option(
    "--model",
    type=ModelName("auto", several=True),
    default="auto",
    show_default=True,
    help="The I/O model ('noria models' lists them), or several with commas: the first that "
    "works here.",
)
@click.option(
    "--interval",
    type=Seconds(most=3600),
    default=0.001,
    show_default=True,
    metavar="S",
    help="For nonblocking: the pause between two rounds of asking; 0 asks without pause.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Processes that share the port.",
)
@click.option(
    "--grace",
    type=Seconds(),
    default=30.0,
    show_default=True,
    metavar="S",
    help="At SIGTERM or SIGHUP: how long open connections may take to finish.",
)
@click.option("-v", "--verbose", is_flag=True, help="One line a connection.")
@click.option("--json", "json", is_flag=True, help="JSON lines in place of text.")
@click.pass_context
def serve(
    context: click.Context,
    target: str,
    host: str,
    port: int,
    unix: str | None,
    model: str,
    interval: float,
    workers: int,
    grace: float,
    verbose: bool,
    json: bool,
) -> None:
    """Run a server until Ctrl-C: the echo server, or a protocol of your own.

    'noria serve files' serves a directory over HTTP and has options of its own: see
    'noria serve files --help'.

    MODULE:PROTOCOL names an asyncio.Protocol class (or a function without arguments that returns a
    protocol; it is called once to see that it does). The module is looked for in the current
    directory too.

    \b
    Examples:
      noria serve echo
      noria serve echo --model select --port 0 -v
      noria serve echo --unix /tmp/echo.sock --json
      noria serve myserver:Chat --host 0.0.0.0 --workers 4
    """
    if target == "files":
        raise click.UsageError("write 'files' first, then its options: noria serve files ...")
    _check(context, unix)
    factory = load(target)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO if verbose else logging.WARNING,
    )
    teller: Teller = JsonTeller() if json else Teller(auto=model == "auto")
    import noria

    try:
        summary = noria.serve(
            factory,
            host,
            port,
            unix=unix,
            model=model,
            interval=interval,
            workers=workers,
            grace=grace,
            ready=teller.ready,
            on_connection=teller.connection if verbose else None,
        )
    except KeyboardInterrupt:  # before it could listen: the normal end too, but with nothing to say
        return
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise listening(error, host, port, unix) from None
    teller.summary(summary)


def _check(context: click.Context, unix: str | None) -> None:
    """A Unix socket has neither host nor port."""
    if unix is None:
        return
    for name in ("host", "port"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--unix PATH and --{name} exclude each other.")


class Teller:
    """Says on standard output what the server does, for people."""

    def __init__(self, auto: bool = False) -> None:
        self._auto = auto

    def ready(self, info: Any) -> None:
        """Where it listens, and on which model."""
        why = f" (auto: {info.reason})" if self._auto and info.reason else ""
        say(f"listening on {' and '.join(info.addresses)}, model {info.model}{why}")
        say("Ctrl-C ends it")

    def connection(self, event: str, peer: str, facts: dict[str, Any]) -> None:
        """One line for a connection that came or went."""
        said = f"  after {_seconds(facts['seconds'])}" if "seconds" in facts else ""
        if facts.get("error"):
            said += f": {facts['error']}"
        say(f"{time.strftime('%H:%M:%S')}  {event:5}  {peer}{said}")

    def summary(self, summary: Any) -> None:
        """What it did, at the end."""
        workers = f" by {_many(summary.workers, 'worker')}" if summary.workers > 1 else ""
        whole = summary.busy + summary.waiting
        share = f" ({summary.busy / whole:.1%} of the time)" if whole > 0 else ""
        say(
            f"\nserved {_many(summary.connections, 'connection')}, "
            f"{_many(summary.messages, 'message')}{workers}\n"
            f"  received  {_size(summary.bytes_in)}\n"
            f"  sent      {_size(summary.bytes_out)}\n"
            f"  busy      {_seconds(summary.busy)}{share}\n"
            f"  waiting   {_seconds(summary.waiting)}"
        )


class JsonTeller(Teller):
    """Says the same as JSON, one object a line, for scripts."""

    def ready(self, info: Any) -> None:
        """Where it listens, and on which model."""
        _json(
            event="listening",
            listening=list(info.addresses),
            model=info.model,
            reason=info.reason,
            pid=info.pid,
        )

    def connection(self, event: str, peer: str, facts: dict[str, Any]) -> None:
        """One object for a connection that came or went; its ``seconds`` and ``error``."""
        _json(event=event, peer=peer, **facts)

    def summary(self, summary: Any) -> None:
        """What it did, at the end; times in seconds."""
        names = ("connections", "messages", "bytes_in", "bytes_out", "busy", "waiting", "workers")
        _json(event="summary", **{name: getattr(summary, name) for name in names})


def say(text: str) -> None:
    """A line at once, also into a pipe; a reader or a terminal that has gone ends no server."""
    try:
        click.echo(text)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)


def _json(**values: Any) -> None:
    say(jsonlib.dumps(values))


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _size(count: float) -> str:
    """Bytes for people."""
    if count < 1024:
        return f"{count:.0f} bytes" if count != 1 else "1 byte"
    size, units = count / 1024, ["KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:,.1f} {units[0]}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"
