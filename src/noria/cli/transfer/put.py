"""``noria put``: files sent to a server."""

import sys
from pathlib import Path
from typing import Any

import click

from noria.cli.transfer.options import (
    checked_url,
    options,
    perform,
    require_stream,
    with_options,
)


@click.command(short_help="Send files to a server.")
@click.argument("files", metavar="FILE...", nargs=-1, type=click.Path(readable=False))
@click.argument("url", metavar="URL", required=False)
@with_options
def put(files: tuple[str, ...], url: str | None, quiet: bool, as_json: bool, **more: Any) -> int:
    """Send files and directories to 'noria serve files --upload'.

    A URL that ends in '/' is a directory, made if it is missing, and takes files under their own
    names; FILE '-' is standard input. Large files go in parts (tus 1.0), and the same command goes
    on with what an interrupted one left, for as long as the server keeps it. Every part is sent
    with its SHA-256.
    No file is replaced without --overwrite; one with the same SHA-256 is taken for the same.

    \b
    Exit status: 0 all is there, 1 something failed, 2 wrong use, 130 interrupted.

    \b
    Examples:
      noria put big.iso http://127.0.0.1:8000/
      noria put photos notes.txt http://127.0.0.1:8000/backup/
      tar -c src | noria put - http://127.0.0.1:8000/src.tar
    """
    if not url or not files:
        raise click.UsageError(missing(url))
    url = checked_url(url)
    settings = options(**more)
    from noria.transfer import put as client

    if "-" in files:
        if len(files) > 1:
            raise click.UsageError("Standard input ('-') can only be sent alone.")
        if url.endswith("/"):
            raise click.UsageError("Standard input has no name: end the URL in one.")
        source = require_stream(sys.stdin, "input", "name the file to send")
        return perform(
            lambda bars: client.put_from_pipe(source, url, settings, bars),
            quiet=quiet,
            as_json=as_json,
            go_on="Standard input cannot be gone on with; nothing was left there.",
        )
    return perform(
        lambda bars: client.put([Path(name) for name in files], url, settings, bars=bars),
        quiet=quiet,
        as_json=as_json,
        go_on="The same command goes on from where it stood.",
    )


def missing(given: str | None) -> str:
    """What to say where there are not a FILE and a URL, but the one argument `given`, or none."""
    if not given:
        return "Missing arguments 'FILE...' and 'URL': what is to be sent, and where."
    if given.startswith(("http://", "https://")):
        from noria.transfer.parsers import shown  # without a password that is in it

        return f"Missing argument 'FILE...': what is to be sent to {shown(given)}?"
    return f"Missing argument 'URL': where is {given} to go? (such as http://127.0.0.1:8000/)"
