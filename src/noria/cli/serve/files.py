"""``noria serve files``: a directory over HTTP, for download and, with --upload, for upload."""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import resource
import sys
from typing import Any

import click

from noria.cli.broker_url import EventsURL, shown_url
from noria.cli.errors import CommandError, broker_error, listen_error
from noria.cli.metrics_server import metrics_server
from noria.cli.model_option import model_option
from noria.cli.param_types import Size
from noria.cli.serve.metrics import NO_ADDRESS, CommandWithOptionalAddress, OptionalAddress
from noria.cli.serve.options import grace_option, host_option, port_option, workers_option
from noria.cli.standard_output import print_line
from noria.errors import BusError, os_error_reason


def _hash_password(ctx: click.Context, parameter: click.Parameter, requested: bool) -> None:
    """Print a password's hash and exit: the callback of --hash-password."""
    if not requested or ctx.resilient_parsing:
        return
    from noria.fileserver.auth import PasswordHash

    click.echo(str(PasswordHash.create(_read_password())))
    ctx.exit()


def _read_password() -> str:
    """Prompt twice on a terminal; otherwise return the first line of standard input."""
    if sys.stdin is not None and sys.stdin.isatty():
        typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    line = b"" if sys.stdin is None else sys.stdin.buffer.readline()
    # auth.py encodes it in the same way, so bytes that are not UTF-8 are kept.
    password = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    if not password:
        raise CommandError(
            "no password on standard input",
            "write it as the first line, or run the command on a terminal to be prompted",
        )
    return password


@click.command(cls=CommandWithOptionalAddress, short_help="Serve a directory over HTTP.")
@click.argument(
    "directory",
    default=".",
    metavar="[DIR]",
    type=click.Path(exists=True, file_okay=False, readable=True),
)
@host_option
@port_option(8000)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Accept requests for this host name too, besides the machine's own names; repeatable; "
    "* accepts any. Other names are refused. [default: any name, or none if --host is a loopback "
    "address]",
)
@click.option("--upload", is_flag=True, help="Allow clients to upload, move and delete files.")
@click.option("--overwrite", is_flag=True, help="With --upload: allow clients to replace files.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option(
    "--max-size", type=Size(), metavar="SIZE", help="Largest upload accepted: 500M, 2GiB."
)
@click.option("--quota", type=Size(), metavar="SIZE", help="Limit on the total size of all files.")
@click.option(
    "--auth",
    multiple=True,
    metavar="USER:HASH",
    help="Require a login with this user and password; repeatable. --hash-password makes the hash.",
)
@click.option(
    "--token",
    multiple=True,
    envvar="NORIA_TOKEN",
    metavar="TOKEN",
    help="Require 'Authorization: Bearer TOKEN' (or a login of --auth); repeatable. Other users of "
    "the machine can see a command's options: prefer the environment variable NORIA_TOKEN.",
)
@click.option(
    "--hash-password",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_hash_password,
    help="Prompt for a password, print its hash for --auth, and exit. If standard input is not a "
    "terminal, its first line is the password.",
)
@click.option(
    "--tls",
    nargs=2,
    type=click.Path(exists=True, dir_okay=False),
    metavar="CERT KEY",
    help="Serve HTTPS with this certificate (chain) and private key, both PEM files.",
)
@model_option(
    "I/O model ('noria models' lists them) that can run asyncio, or several separated by commas: "
    "the first that works here is used."
)
@workers_option
@grace_option("requests")
@click.option(
    "--log",
    type=click.Choice(["none", "common", "json"]),
    default="none",
    show_default=True,
    help="Print a line for each response: common log format, or JSON.",
)
@click.option(
    "--metrics",
    type=OptionalAddress(),
    metavar="[[HOST:]PORT]",
    help="Serve Prometheus metrics of the requests at /-/metrics, each worker its own. With an "
    "address, also those of all workers' loops at http://HOST:PORT/metrics; HOST is 127.0.0.1 by "
    "default.",
)
@click.option(
    "--events",
    type=EventsURL(),
    envvar="NORIA_EVENTS",
    metavar="URL",
    help="Publish each change as an event to this broker, nats://HOST or redis://HOST, and keep "
    "the pages of all workers and machines current by it. Other users of the machine can see a "
    "password in the URL: prefer the environment variable NORIA_EVENTS.",
)
@click.option(
    "--events-source",
    metavar="URI",
    help="With --events: the source of the events. Servers on several machines that serve the same "
    "files must have the same one. [default: file://HOST/DIR/]",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    metavar="N",
    help="Connections of a worker at once; more get a 503.  [default: 20000]",
)
@click.option(
    "--max-per-client",
    type=click.IntRange(1),
    metavar="N",
    help="Connections from one address at once; more get a 503.  [default: 1024]",
)
@click.option(
    "--max-uploads",
    type=click.IntRange(1),
    metavar="N",
    help="Uploads at once; more get a 503.  [default: 256]",
)
def serve_files(
    directory: str,
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    upload: bool,
    overwrite: bool,
    read_only: bool,
    max_size: int | None,
    quota: int | None,
    auth: tuple[str, ...],
    token: tuple[str, ...],
    tls: tuple[str, str] | None,
    model: str,
    workers: int,
    grace: float,
    log: str,
    metrics: tuple[str, int] | None,
    events: str | None,
    events_source: str | None,
    max_connections: int | None,
    max_per_client: int | None,
    max_uploads: int | None,
) -> None:
    """Serve the directory DIR (by default the current one) over HTTP until Ctrl-C.

    Browsers get a page for each directory, programs JSON (Accept: application/json). ?archive=tar
    and ?archive=zip download a directory as one file. With --upload, files can be uploaded on the
    page, with PUT, with forms, and with the tus protocol, which can resume.

    Under systemd, the sockets of the socket unit replace --host and --port.

    \b
    Examples:
      noria serve files
      noria serve files ~/public --host 0.0.0.0 --log common
      noria serve files inbox --upload --max-size 2GiB --auth me:"$(cat me.hash)"
      noria serve files --tls cert.pem key.pem --workers 2
      noria serve files inbox --upload --events nats://127.0.0.1:4222
    """
    if importlib.util.find_spec("httptools") is None:
        raise CommandError("noria serve files needs httptools", "pip install 'noria[cli]'")
    for option, given in (("overwrite", overwrite), ("max-size", max_size), ("quota", quota)):
        if given and not upload:
            raise click.UsageError(f"--{option} requires --upload.")
    if upload and read_only:
        raise click.UsageError("--upload and --read-only cannot be combined.")
    if events_source is not None and not (events and events_source):
        raise click.UsageError("--events-source requires --events, and must not be empty.")
    if not all(name.strip() for name in allow_host):
        raise click.BadParameter("a name is empty; * accepts any.", param_hint="--allow-host")
    _check_model(model)
    from noria.cli.serve.certificates import load_tls_context
    from noria.cli.serve.socket_activation import passed_sockets
    from noria.fileserver.options import ServerOptions
    from noria.http.limits import Limits

    counts = {
        "max_connections": max_connections,
        "max_per_client": max_per_client,
        "max_uploads": max_uploads,
    }
    sockets = passed_sockets()
    options = ServerOptions(
        directory=directory,
        host=host,
        port=port,
        sockets=sockets,
        model=model,
        workers=workers,
        grace=grace,
        tls=load_tls_context(*tls) if tls else None,
        upload=upload,
        overwrite=overwrite,
        read_only=read_only,
        users=_users(auth),
        tokens=_tokens(token),
        max_size=max_size,
        quota=quota,
        metrics=metrics is not None,
        allowed_hosts=allow_host,
        events=events or "",
        events_source=events_source or "",
        log=log,
        limits=dataclasses.replace(Limits(), **{k: v for k, v in counts.items() if v}),
    )
    _warn(options)
    _run(options, metrics)


def _check_model(model: str) -> None:
    """Raise BadParameter unless each model of a comma-separated list can run asyncio."""
    from noria.models import MODELS, info

    usable = [name for name in MODELS if info(name).capabilities["asyncio"] != "none"]
    for name in model.split(","):
        if name not in ("auto", *usable):
            raise click.BadParameter(
                f"{name} cannot run asyncio, which the file server needs; use one of "
                f"{', '.join(usable)}.",
                param_hint="--model",
            )


def _run(options: Any, metrics: tuple[str, int] | None) -> None:
    from noria.fileserver.app import make_service
    from noria.fileserver.serve import serve_files as serve

    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING,
    )
    try:
        make_service(options).close()
    except OSError as error:
        raise CommandError(f"cannot serve {options.directory}: {os_error_reason(error)}") from None
    _raise_fd_limit()
    address = None if metrics == NO_ADDRESS else metrics
    try:
        with metrics_server(address) as url:
            serve(options, lambda info: _print_ready(options, info, url))
    except KeyboardInterrupt:  # before the server listened
        return
    except BusError as error:
        raise broker_error(error) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise listen_error(error, options.host, options.port, None) from None


def _raise_fd_limit() -> None:
    """Raise the limit of open files to the hard limit: a connection takes one, its file another."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _print_ready(options: Any, info: Any, metrics: str | None) -> None:
    scheme = "https" if options.tls is not None else "http"
    where = " and ".join(f"{scheme}://{address}/" for address in info.addresses)
    directory = os.path.realpath(options.directory)
    print_line(f"serving {directory} at {where}, model {info.model}")
    if metrics is not None:
        print_line(f"metrics of the loops at {metrics}")
    if options.events:
        print_line(f"events at {shown_url(options.events)}")
    if options.log == "none":
        print_line("press Ctrl-C to stop")


def _warn(options: Any) -> None:
    """Print warnings about settings that may surprise."""
    if os.path.lexists(os.path.join(options.directory, "-")):
        click.echo('noria: warning: "-" in the served directory cannot be reached: the server '
                   "uses /-/ itself", err=True)  # fmt: skip
    from noria.fileserver.allowed_hosts import is_loopback

    if options.sockets or options.host == "localhost" or is_loopback(options.host):
        return
    if options.upload and not (options.users or options.tokens):
        click.echo("noria: warning: everyone who can reach this address may upload, move and "
                   "delete files; --auth or --token requires a login", err=True)  # fmt: skip
    elif (options.users or options.tokens) and options.tls is None:
        click.echo("noria: warning: without --tls, passwords and tokens cross the network "
                   "unencrypted", err=True)  # fmt: skip


def _users(pairs: tuple[str, ...]) -> dict[str, Any]:
    from noria.fileserver.auth import PasswordHash

    users = {}
    for pair in pairs:
        user, colon, text = pair.partition(":")
        if not colon or not user:
            raise click.BadParameter(
                "write USER:HASH; 'noria serve files --hash-password' makes the hash.",
                param_hint="--auth",
            )
        if user in users:
            raise click.BadParameter(f"{user} is given twice.", param_hint="--auth")
        try:
            users[user] = PasswordHash.parse(text)
        except ValueError as error:
            raise click.BadParameter(f"{user}: {error}.", param_hint="--auth") from None
    return users


def _tokens(tokens: tuple[str, ...]) -> tuple[str, ...]:
    for token in tokens:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise click.BadParameter(
                "a token consists of ASCII characters without spaces.", param_hint="--token"
            )
    return tokens
