"""``noria get``: files fetched from a server."""

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


@click.command(short_help="Fetch files from a server.")
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(readable=False),
    help="The directory or the file to write; '-' is standard output. Devices and FIFOs are "
    "written into.  [default: here]",
)
@click.option("-r", "--recursive", is_flag=True, help="Fetch directories and all in them.")
@with_options
def get(
    urls: tuple[str, ...],
    output: str | None,
    recursive: bool,
    quiet: bool,
    as_json: bool,
    **more: Any,
) -> int:
    """Fetch files over HTTP: from 'noria serve files', or from any web server.

    What is there already is gone on with: NAME.part is the beginning of NAME, and becomes it once
    it is whole and its SHA-256 is the server's (if the server gives one). No file is replaced
    without --overwrite; one with the size and date of the server's is taken for the same.

    \b
    Exit status: 0 all is here, 1 something failed, 2 wrong use, 130 interrupted.

    \b
    Examples:
      noria get http://127.0.0.1:8000/big.iso
      noria get http://127.0.0.1:8000/photos/ -r -o /tmp
      noria get http://127.0.0.1:8000/logs.tar -o - | tar -t
    """
    urls = tuple(checked_url(url) for url in urls)
    settings = options(**more)
    from noria.transfer import get as client
    from noria.transfer.session import is_directory

    if output == "-":
        if len(urls) > 1 or is_directory(urls[0]):
            raise click.UsageError("Only one file can go to standard output.")
        if as_json:
            raise click.UsageError("--json and '-o -' both want standard output.")
        out = require_stream(sys.stdout, "output", "-o FILE writes to a file")
        return perform(
            lambda bars: client.get_to_pipe(urls[0], out, settings, bars),
            quiet=quiet,
            as_json=False,
            go_on="What has gone to standard output cannot be gone on with.",
        )
    place = Path(output) if output else Path()
    if not place.is_dir() and (len(urls) > 1 or (output and output.endswith("/"))):
        raise click.UsageError(f"{output} is not a directory; make it first.")
    return perform(
        lambda bars: client.get(list(urls), place, settings, recursive=recursive, bars=bars),
        quiet=quiet,
        as_json=as_json,
        go_on="The same command goes on from where it stood; what is there is kept as NAME.part.",
    )
