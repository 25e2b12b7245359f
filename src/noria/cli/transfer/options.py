"""The options of ``noria get`` and ``noria put``, and their arguments."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from noria.cli.param_types import Seconds

if TYPE_CHECKING:
    from noria.transfer.options import TransferOptions

F = TypeVar("F", bound=Callable[..., Any])

_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")  # as Python's surrogateescape encodes bytes

_OPTIONS = (
    click.option("--overwrite", is_flag=True, help="Replace existing files."),
    click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1, 64),
        default=4,
        show_default=True,
        help="Number of files transferred at once.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0, 1000),
        default=5,
        show_default=True,
        help="Retries in a row without progress before giving up; the pause doubles each time.",
    ),
    click.option(
        "--timeout",
        type=Seconds(maximum=3600),
        default=30.0,
        show_default=True,
        metavar="S",
        help="Time limit for connecting, for the head of a response, and for more of its body.",
    ),
    click.option("--auth", metavar="USER:PASSWORD", help="Log in with a user and a password."),
    click.option(
        "--token",
        metavar="TOKEN",
        envvar="NORIA_TOKEN",
        help="Log in with a bearer token. Other users of the machine can see a command's options: "
        "prefer the environment variable NORIA_TOKEN.",
    ),
    click.option(
        "--ca",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="Trust the certificates in this PEM file instead of the system's.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print a JSON summary to standard output."
    ),
)


def add_transfer_options(command: F) -> F:
    """Add the options of both commands to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse_options(**given: Any) -> TransferOptions:
    """Return the options of a transfer. Raises UsageError for an unusable login."""
    from noria.transfer.options import TransferOptions

    auth = None
    if given["auth"] is not None:
        if given["token"]:
            raise click.UsageError("--auth and --token (or NORIA_TOKEN) cannot be combined.")
        user, colon, password = os.fsencode(given["auth"]).partition(b":")
        if not colon:
            raise click.UsageError("--auth requires USER:PASSWORD, with a colon.")
        auth = (user, password)
    token = given["token"] or ""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError("--token (NORIA_TOKEN) must be ASCII characters without spaces.")
    return TransferOptions(
        jobs=given["jobs"],
        retries=given["retries"],
        overwrite=given["overwrite"],
        auth=auth,
        token=token or None,
        ca=given["ca"],
        timeout=given["timeout"] or 0.001,
    )


def parse_url_argument(argument: str) -> str:
    """Return the URL in an argument. Raises UsageError unless it is http or https.

    An argument is bytes, and a URL is UTF-8, independent of the locale.
    """
    from noria.transfer.parsers import parse_url, redact_url

    with contextlib.suppress(UnicodeEncodeError):  # not from the command line
        argument = os.fsencode(argument).decode("utf-8", "surrogateescape")
    url = _ESCAPED_BYTES.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", argument)
    try:
        parse_url(url)
    except ValueError as error:
        raise click.UsageError(
            f"{redact_url(url)!r} is not a URL such as http://127.0.0.1:8000/directory/: {error}."
        ) from None
    return url
