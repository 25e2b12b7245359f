"""``noria serve files``: a directory over HTTP, down and, if asked, up."""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import resource
import socket
import sys
from typing import Any

import click

from noria.cli.connect.command import Seconds
from noria.cli.errors import Problem, listening, reason
from noria.cli.param_types import ModelName
from noria.cli.serve.certificates import context
from noria.cli.sizes import Size

FIRST_PASSED = 3  # systemd's first descriptor: sd_listen_fds(3)


def _hash_password(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from noria.fileserver.auth import Hash

    click.echo(str(Hash.of(_password())))
    ctx.exit()


def _password() -> str:
    """Asked for twice at a terminal; else the first line of standard input, as it is in there."""
    if sys.stdin is not None and sys.stdin.isatty():
        asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return asked
    line = b"" if sys.stdin is None else sys.stdin.buffer.readline()
    # As auth.py encodes it again: bytes that are no UTF-8 stay what they are.
    password = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
    if not password:
        raise Problem(
            "no password came on standard input",
            "its first line is the password; at a terminal it is asked for",
        )
    return password


@click.command(short_help="Serve a directory over HTTP.")
@click.argument(
    "directory",
    default=".",
    metavar="[DIR]",
    type=click.Path(exists=True, file_okay=False, readable=True),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen on; 0 takes any free one.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="A name the server is called by, beside this machine's own; several times for several, "
    "* for any. Others are refused. [default: any, but none on a --host that only this machine "
    "reaches]",
)
@click.option("--upload", is_flag=True, help="Files may be stored, moved and deleted.")
@click.option("--overwrite", is_flag=True, help="With --upload: files may be written over.")
@click.option("--read-only", is_flag=True, help="Nothing may be changed, whatever else is said.")
@click.option("--max-size", type=Size(), metavar="SIZE", help="The largest file taken: 500M, 2GiB.")
@click.option("--quota", type=Size(), metavar="SIZE", help="What all files together may take.")
@click.option(
    "--auth",
    multiple=True,
    metavar="USER:HASH",
    help="Who may come in, by name and password; several times for several. "
    "--hash-password makes the hash.",
)
@click.option(
    "--token",
    multiple=True,
    envvar="NORIA_TOKEN",
    metavar="TOKEN",
    help="Who sends 'Authorization: Bearer TOKEN' may come in. Others on this machine see a "
    "command's options: better in the environment, as NORIA_TOKEN.",
)
@click.option(
    "--hash-password",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_hash_password,
    help="Ask for a password, print its hash for --auth, and end. Where standard input is no "
    "terminal, its first line is the password.",
)
@click.option(
    "--tls",
    nargs=2,
    type=click.Path(exists=True, dir_okay=False),
    metavar="CERT KEY",
    help="HTTPS with this certificate (chain) and private key, PEM files.",
)
@click.option(
    "--model",
    type=ModelName("auto", several=True),
    default="auto",
    show_default=True,
    help="The I/O model ('noria models' lists them): one that can drive asyncio.",
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
    help="At SIGTERM or SIGHUP: how long requests may take to finish.",
)
@click.option(
    "--log",
    type=click.Choice(["none", "common", "json"]),
    default="none",
    show_default=True,
    help="A line for each answer on standard output: common log format, or JSON.",
)
@click.option("--metrics", is_flag=True, help="Counts for Prometheus at /-/metrics.")
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    metavar="N",
    help="Connections of one worker at once; above it 503.  [default: 20000]",
)
@click.option(
    "--max-per-client",
    type=click.IntRange(1),
    metavar="N",
    help="Connections from one address; above it 503.  [default: 1024]",
)
@click.option(
    "--max-uploads",
    type=click.IntRange(1),
    metavar="N",
    help="Uploads at once; above it 503.  [default: 256]",
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
    metrics: bool,
    max_connections: int | None,
    max_per_client: int | None,
    max_uploads: int | None,
) -> None:
    """Serve the directory DIR (the current one) over HTTP until Ctrl-C.

    Browsers get a page for each directory, programs JSON (Accept: application/json); ?archive=tar
    and ?archive=zip give a directory as one file. With --upload files come in by the page, by PUT,
    by forms, and by the tus protocol, which resumes.

    Under systemd it takes the sockets of its socket unit, in place of --host and --port.

    \b
    Examples:
      noria serve files
      noria serve files ~/public --host 0.0.0.0 --log common
      noria serve files inbox --upload --max-size 2GiB --auth me:"$(cat me.hash)"
      noria serve files --tls cert.pem key.pem --workers 2
    """
    if importlib.util.find_spec("httptools") is None:
        raise Problem("noria serve files needs httptools", "pip install 'noria[cli]'")
    for option, given in (("overwrite", overwrite), ("max-size", max_size), ("quota", quota)):
        if given and not upload:
            raise click.UsageError(f"--{option} has no meaning without --upload.")
    if upload and read_only:
        raise click.UsageError("--upload and --read-only exclude each other.")
    if not all(name.strip() for name in allow_host):
        raise click.BadParameter("a name is empty; * allows any.", param_hint="--allow-host")
    _check_model(model)
    from noria.fileserver.server import Options
    from noria.http.limits import Limits

    counts = {"connections": max_connections, "per_client": max_per_client, "uploads": max_uploads}
    sockets = _passed_sockets()
    options = Options(
        directory=directory,
        host=host,
        port=port,
        sockets=sockets,
        model=model,
        workers=workers,
        grace=grace,
        tls=context(*tls) if tls else None,
        upload=upload,
        overwrite=overwrite,
        read_only=read_only,
        users=_users(auth),
        tokens=_tokens(token),
        max_size=max_size,
        quota=quota,
        metrics=metrics,
        allowed_hosts=allow_host,
        log=log,
        limits=dataclasses.replace(Limits(), **{k: v for k, v in counts.items() if v}),
    )
    _warn(options)
    _run(options)


def _check_model(model: str) -> None:
    """Each of a list with commas must be able to drive asyncio."""
    from noria.models import MODELS, info

    able = [name for name in MODELS if info(name).capabilities["asyncio"] != "none"]
    for name in model.split(","):
        if name not in ("auto", *able):
            raise click.BadParameter(
                f"{name} cannot drive asyncio, which the file server needs; these can: "
                f"{', '.join(able)}.",
                param_hint="--model",
            )


def _run(options: Any) -> None:
    from noria.fileserver.server import serve_files as serve
    from noria.fileserver.server import service_of

    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING,
    )
    try:
        service_of(options).close()
    except OSError as error:
        raise Problem(f"cannot serve {options.directory}: {reason(error)}") from None
    _raise_limit()
    try:
        serve(options, lambda info: _ready(options, info))
    except KeyboardInterrupt:  # before it could listen
        return
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise listening(error, options.host, options.port, None) from None


def _raise_limit() -> None:
    """As many open files as the hard limit allows: a connection is one, and its file another."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ready(options: Any, info: Any) -> None:
    from noria.cli.serve.command import say

    scheme = "https" if options.tls is not None else "http"
    where = " and ".join(f"{scheme}://{address}/" for address in info.addresses)
    what = os.path.realpath(options.directory)
    say(f"serving {what} at {where}, model {info.model}")
    if options.log == "none":
        say("Ctrl-C ends it")


def _warn(options: Any) -> None:
    """What may be otherwise than one expects."""
    if os.path.lexists(os.path.join(options.directory, "-")):
        click.echo('noria: warning: "-" in the served directory cannot be reached: /-/ is the '
                   "server's own", err=True)  # fmt: skip
    from noria.fileserver.allowed_hosts import loopback

    if options.sockets or options.host == "localhost" or loopback(options.host):
        return
    if options.upload and not (options.users or options.tokens):
        click.echo("noria: warning: anybody who reaches this address may store, move and delete "
                   "files; --auth or --token asks who it is", err=True)  # fmt: skip
    elif (options.users or options.tokens) and options.tls is None:
        click.echo("noria: warning: without --tls, passwords and tokens can be read on the "
                   "network", err=True)  # fmt: skip


def _users(pairs: tuple[str, ...]) -> dict[str, Any]:
    from noria.fileserver.auth import Hash

    users = {}
    for pair in pairs:
        user, colon, text = pair.partition(":")
        if not colon or not user:
            raise click.BadParameter(
                "write USER:HASH; 'noria serve files --hash-password' makes the hash.",
                param_hint="--auth",
            )
        if user in users:
            raise click.BadParameter(f"{user} is there twice.", param_hint="--auth")
        try:
            users[user] = Hash.read(text)
        except ValueError as error:
            raise click.BadParameter(f"of {user}: {error}.", param_hint="--auth") from None
    return users


def _tokens(tokens: tuple[str, ...]) -> tuple[str, ...]:
    for token in tokens:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise click.BadParameter(
                "a token is made of ASCII characters without spaces.", param_hint="--token"
            )
    return tokens


def _passed_sockets() -> list[socket.socket]:
    """The listening sockets that systemd passed: sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(os.environ.get("LISTEN_FDS", "0"))
    except ValueError:
        raise Problem("LISTEN_FDS in the environment is not a number") from None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # not for the processes that this one starts
    sockets = []
    for fd in range(FIRST_PASSED, FIRST_PASSED + count):
        os.set_inheritable(fd, False)
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise Problem(f"descriptor {fd} is no socket: {reason(error)}") from None
        sockets.append(sock)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise Problem(f"descriptor {fd} is no listening stream socket",
                          "the socket unit needs ListenStream= and Accept=no")  # fmt: skip
    return sockets
