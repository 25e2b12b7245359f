"""``noria serve``: an echo server, or a protocol of the user, on any model."""

import logging

import click

from noria.cli.errors import listen_error
from noria.cli.metrics_server import metrics_server
from noria.cli.model_option import model_option
from noria.cli.param_types import Address, Seconds
from noria.cli.serve.files import serve_files
from noria.cli.serve.options import grace_option, host_option, port_option, workers_option
from noria.cli.serve.output import JsonOutput, TextOutput
from noria.cli.serve.target import load
from noria.cli.subcommand import CommandWithSubcommands


@click.command(
    cls=CommandWithSubcommands,
    subcommands={"files": serve_files},
    short_help="Run a server: files, echo, or a protocol of your own.",
)
@click.argument("target", metavar="files|echo|MODULE:PROTOCOL")
@host_option
@port_option(9001)
@click.option("--unix", metavar="PATH", help="Listen on this Unix socket instead of a port.")
@model_option(
    "I/O model ('noria models' lists them), or several separated by commas: the first that works "
    "here is used."
)
@click.option(
    "--interval",
    type=Seconds(maximum=3600),
    default=0.001,
    show_default=True,
    metavar="S",
    help="For nonblocking: pause between two rounds of polling; 0 polls without a pause.",
)
@workers_option
@grace_option("open connections")
@click.option(
    "--metrics",
    type=Address(),
    metavar="[HOST:]PORT",
    help="Serve Prometheus metrics of the loops, of all workers, at http://HOST:PORT/metrics; HOST "
    "is 127.0.0.1 by default.",
)
@click.option("-v", "--verbose", is_flag=True, help="Print a line for each connection.")
@click.option("--json", "json", is_flag=True, help="Print JSON lines instead of text.")
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
    metrics: tuple[str, int] | None,
    verbose: bool,
    json: bool,
) -> None:
    """Run a server until Ctrl-C: an echo server, or a protocol of your own.

    'noria serve files' serves a directory over HTTP and has its own options: see
    'noria serve files --help'.

    MODULE:PROTOCOL names an asyncio.Protocol class, or a function without arguments that returns a
    protocol (it is called once at the start, as a check). The module may be in the current
    directory.

    \b
    Examples:
      noria serve echo
      noria serve echo --model select --port 0 -v
      noria serve echo --unix /tmp/echo.sock --json
      noria serve echo --workers 2 --metrics 9100
      noria serve myserver:Chat --host 0.0.0.0 --workers 4
    """
    if target == "files":
        raise click.UsageError("'files' must come before its options: noria serve files ...")
    _check_unix(context, unix)
    factory = load(target)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO if verbose else logging.WARNING,
    )
    import noria

    try:
        with metrics_server(metrics) as url:
            output = JsonOutput(metrics=url) if json else TextOutput(model == "auto", url)
            summary = noria.serve(
                factory,
                host,
                port,
                unix=unix,
                model=model,
                interval=interval,
                workers=workers,
                grace=grace,
                ready=output.ready,
                on_connection=output.connection if verbose else None,
            )
    except KeyboardInterrupt:  # before the server listened: there is nothing to summarize
        return
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise listen_error(error, host, port, unix) from None
    output.summary(summary)


def _check_unix(context: click.Context, unix: str | None) -> None:
    """Raise UsageError if --unix is combined with --host or --port."""
    if unix is None:
        return
    for name in ("host", "port"):
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--unix PATH and --{name} cannot be combined.")
