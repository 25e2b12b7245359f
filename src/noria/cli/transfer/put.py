"""``noria put``: uploads files to a server."""

import sys
from pathlib import Path
from typing import Any

import click

from noria.cli.transfer.options import add_transfer_options, parse_options, parse_url_argument


@click.command(short_help="Upload files to a server.")
@click.argument("files", metavar="FILE...", nargs=-1, type=click.Path(readable=False))
@click.argument("url", metavar="URL", required=False)
@add_transfer_options
def put(files: tuple[str, ...], url: str | None, quiet: bool, as_json: bool, **more: Any) -> int:
    """Upload files and directories to 'noria serve files --upload'.

    A URL that ends in '/' is a directory: it is created if it is missing, and files keep their
    names in it. FILE '-' is standard input. Large files are sent in parts (tus 1.0), each with its
    SHA-256. Run the same command again to resume an interrupted upload, as long as the server keeps
    it. Existing files are not replaced without --overwrite; a file with the same SHA-256 counts as
    unchanged.

    \b
    Exit status: 0 all complete, 1 something failed, 2 wrong use, 130 interrupted.

    \b
    Examples:
      noria put big.iso http://127.0.0.1:8000/
      noria put photos notes.txt http://127.0.0.1:8000/backup/
      tar -c src | noria put - http://127.0.0.1:8000/src.tar
    """
    if not url or not files:
        raise click.UsageError(_missing_argument(url))
    url = parse_url_argument(url)
    options = parse_options(**more)
    from noria.cli.transfer.run import require_stream, run_command
    from noria.transfer import put as uploads

    if "-" in files:
        if len(files) > 1:
            raise click.UsageError("Standard input ('-') cannot be combined with files.")
        if url.endswith("/"):
            raise click.UsageError("Standard input has no name: add one to the URL.")
        source = require_stream(sys.stdin, "input", "name the file to upload")
        return run_command(
            lambda new_reporter: uploads.put_from_pipe(source, url, options, new_reporter),
            quiet=quiet,
            as_json=as_json,
            interrupted="An upload of standard input cannot be resumed; nothing was stored.",
        )
    return run_command(
        lambda new_reporter: uploads.put(
            [Path(name) for name in files], url, options, new_reporter=new_reporter
        ),
        quiet=quiet,
        as_json=as_json,
        interrupted="Run the same command again to resume.",
    )


def _missing_argument(given: str | None) -> str:
    """Return the message for a command with only the argument `given`, or with none."""
    if not given:
        return "Missing arguments 'FILE...' and 'URL': what to upload, and where."
    if given.startswith(("http://", "https://")):
        from noria.transfer.parsers import redact_url

        return f"Missing argument 'FILE...': what should be uploaded to {redact_url(given)}?"
    return f"Missing argument 'URL': where should {given} go? (such as http://127.0.0.1:8000/)"
