"""What ``noria put`` and ``noria get`` share: options, bars on a terminal, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, TypeVar

import click

from noria.cli.errors import CommandError
from noria.cli.param_types import Seconds

if TYPE_CHECKING:
    from noria.transfer.session import Bar, Options, Outcome

F = TypeVar("F", bound=Callable[..., Any])

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes, as Python's surrogateescape has them

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
        type=Seconds(maximum=3600),
        default=30.0,
        show_default=True,
        metavar="S",
        help="How long to wait for a connection, for the head of an answer, for more of its body.",
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
    from noria.transfer.session import Options

    auth = None
    if given["auth"] is not None:
        if given["token"]:
            raise click.UsageError("--auth and --token (or NORIA_TOKEN) exclude each other.")
        user, colon, password = os.fsencode(given["auth"]).partition(b":")
        if not colon:
            raise click.UsageError("--auth wants USER:PASSWORD, with a colon between.")
        auth = (user, password)
    token = given["token"] or ""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError("A token (--token, NORIA_TOKEN) is ASCII characters without spaces.")
    return Options(
        jobs=given["jobs"],
        retries=given["retries"],
        overwrite=given["overwrite"],
        auth=auth,
        token=token or None,
        ca=given["ca"],
        timeout=given["timeout"] or 0.001,
    )


def checked_url(argument: str) -> str:
    """The URL that an argument gives. Raises UsageError for what is no URL of a file server.

    An argument is bytes, and a URL is UTF-8, whatever the locale is.
    """
    from noria.transfer.parsers import parse_url, shown

    with contextlib.suppress(UnicodeEncodeError):  # it did not come from the command line
        argument = os.fsencode(argument).decode("utf-8", "surrogateescape")
    url = _NOT_UTF8.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", argument)
    try:
        parse_url(url)
    except ValueError as error:
        raise click.UsageError(
            f"{shown(url)!r} is not a URL such as http://127.0.0.1:8000/directory/: {error}."
        ) from None
    return url


def require_stream(stream: TextIO | None, name: str, hint: str) -> BinaryIO:
    """Standard input or output as bytes. Raises CommandError if it is closed."""
    if stream is None:
        raise CommandError(f"standard {name} is closed", hint)
    return stream.buffer


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
    from noria.cli.transfer.progress_bars import Bars
    from noria.cli.transfer.progress_lines import Noted, plain
    from noria.transfer.errors import Failure
    from noria.transfer.session import Bar

    if as_json:
        require_stream(sys.stdout, "output", "--json writes its summary there")
    show = not quiet and sys.stderr is not None and sys.stderr.isatty()
    bars = Bars() if show else None
    silent: Callable[[str], Bar] = (lambda _: Bar()) if quiet else Noted
    try:
        with bars or nullcontext():
            outcomes = noria.run(make(bars.bar if bars else silent))
    except Failure as error:
        raise CommandError(str(error)) from None
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
