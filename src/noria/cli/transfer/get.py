"""``noria get``: downloads files from a server."""

import sys
from pathlib import Path
from typing import Any

import click

from noria.cli.transfer.options import add_transfer_options, parse_options, parse_url_argument


@click.command(short_help="Download files from a server.")
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(readable=False),
    help="Directory or file to write to; '-' is standard output. Devices and FIFOs are written "
    "into.  [default: the current directory]",
)
@click.option("-r", "--recursive", is_flag=True, help="Download directories with their contents.")
@add_transfer_options
def get(
    urls: tuple[str, ...],
    output: str | None,
    recursive: bool,
    quiet: bool,
    as_json: bool,
    **more: Any,
) -> int:
    """Download files over HTTP, from 'noria serve files' or any web server.

    Data is written to NAME.part, which becomes NAME when it is complete and its SHA-256 is verified
    (if the server sends one). Run the same command again to resume an interrupted download.
    Existing files are not replaced without --overwrite; a file with the server's size and date
    counts as unchanged.

    \b
    Exit status: 0 all complete, 1 something failed, 2 wrong use, 130 interrupted.

    \b
    Examples:
      noria get http://127.0.0.1:8000/big.iso
      noria get http://127.0.0.1:8000/photos/ -r -o /tmp
      noria get http://127.0.0.1:8000/logs.tar -o - | tar -t
    """
    urls = tuple(parse_url_argument(url) for url in urls)
    options = parse_options(**more)
    from noria.cli.transfer.run import require_stream, run_command
    from noria.transfer import get as downloads
    from noria.transfer.parsers import is_directory_url

    if output == "-":
        if len(urls) > 1 or is_directory_url(urls[0]):
            raise click.UsageError("Only one file can be written to standard output.")
        if as_json:
            raise click.UsageError("--json and '-o -' both write to standard output.")
        out = require_stream(sys.stdout, "output", "-o FILE writes to a file instead")
        return run_command(
            lambda new_reporter: downloads.get_to_pipe(urls[0], out, options, new_reporter),
            quiet=quiet,
            as_json=False,
            interrupted="A download to standard output cannot be resumed.",
        )
    target = Path(output) if output else Path()
    if not target.is_dir() and (len(urls) > 1 or (output and output.endswith("/"))):
        raise click.UsageError(f"{output} is not a directory; create it first.")
    return run_command(
        lambda new_reporter: downloads.get(
            list(urls), target, options, recursive=recursive, new_reporter=new_reporter
        ),
        quiet=quiet,
        as_json=as_json,
        interrupted="Run the same command again to resume; NAME.part has what was received.",
    )
