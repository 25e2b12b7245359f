"""What ``noria put`` and ``noria get`` share: options, bars on a terminal, and how they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from noria.cli.connect import Seconds
from noria.cli.problems import Problem

if TYPE_CHECKING:
    from noria.fileserver.client.session import Bar, Options, Outcome

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--overwrite", is_flag=True, help="Replace files that exist already."),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1, 64),
        default=4,
        show_default=True,
        help="Files under way at once.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0, 1000),
        default=5,
        show_default=True,
        help="Attempts in a row that may fail without a byte gained, each after a longer pause.",
    ),
    click.option(
        "--timeout",
        type=Seconds(most=3600),
        default=30.0,
        show_default=True,
        metavar="S",
        help="How long to wait for a connection, or for more of an answer.",
    ),
    click.option("--auth", metavar="USER:PASSWORD", help="The login, for a server with --auth."),
    click.option(
        "--token",
        metavar="TOKEN",
        envvar="NORIA_TOKEN",
        help="The token, for a server with --token. Better in the environment, as NORIA_TOKEN: "
        "others can see a command's arguments.",
    ),
    click.option(
        "--ca",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="Certificates to trust (PEM) in place of the usual ones.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    click.option("--json", "as_json", is_flag=True, help="A summary as JSON on standard output."),
)


def with_options(command: F) -> F:
    """Gives a command the options of all transfers."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options(**given: Any) -> Options:
    """The client's options of the command's. Raises UsageError for logins that cannot be."""
    from noria.fileserver.client.session import Options

    auth = None
    if given["auth"] is not None:
        if given["token"]:
            raise click.UsageError("--auth and --token (or NORIA_TOKEN) exclude each other.")
        user, colon, password = given["auth"].partition(":")
        if not colon:
            raise click.UsageError("--auth wants USER:PASSWORD, with a colon between.")
        auth = (user, password)
    return Options(
        jobs=given["jobs"],
        retries=given["retries"],
        overwrite=given["overwrite"],
        auth=auth,
        token=given["token"] or None,
        ca=given["ca"],
        timeout=given["timeout"] or 0.001,
    )


def check_url(url: str) -> None:
    """Raises UsageError for what is no URL of a file server."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise click.UsageError(f"{url!r} is not a URL such as http://127.0.0.1:8000/directory/.")


def perform(
    make: Callable[[Callable[[str], Bar]], Coroutine[Any, Any, list[Outcome]]],
    *,
    quiet: bool,
    as_json: bool,
    go_on: str,
) -> int:
    """Runs a transfer with its bars, tells how it ended, and returns the exit status, 0 or 1.

    `go_on` is what to tell someone who interrupted it.
    """
    import noria
    from noria.cli.bars import Bars
    from noria.cli.noted import Noted, plain
    from noria.fileserver.client.errors import Failure
    from noria.fileserver.client.session import Bar

    show = not quiet and sys.stderr.isatty()
    bars = Bars() if show else None
    silent: Callable[[str], Bar] = (lambda _: Bar()) if quiet else Noted
    try:
        with bars or nullcontext():
            outcomes = noria.run(make(bars.bar if bars else silent))
    except Failure as error:
        raise Problem(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nnoria: interrupted. {go_on}", err=True)
        raise
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        click.echo(f"noria: {plain(outcome.name)}: {plain(outcome.error)}", err=True)
    if as_json:
        click.echo(json.dumps(_summary(outcomes)))
    elif len(outcomes) > 1 and failed and not quiet:
        click.echo(f"noria: {len(failed)} of {len(outcomes)} failed", err=True)
    return 1 if failed else 0


def _summary(outcomes: list[Outcome]) -> dict[str, Any]:
    counts = {"done": 0, "unchanged": 0, "failed": 0}
    for outcome in outcomes:
        counts[outcome.status] += 1
    return {
        **counts,
        "bytes": sum(outcome.sent for outcome in outcomes),
        "files": [outcome.as_dict() for outcome in outcomes],
    }
