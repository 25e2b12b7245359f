"""Standard output: its width, whether it can show Unicode, and lines whose reader may leave."""

import errno
import json
import os
import shutil
import sys
from typing import Any

import click

PIPE_WIDTH = 120  # characters, where no terminal has a width


def output_width() -> int:
    """Return the width of the terminal, or $COLUMNS, in characters."""
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns


def is_utf8() -> bool:
    """Return whether standard output is encoded in UTF-8."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def ellipsis() -> str:
    """Return what stands for the rest of a text."""
    return "…" if is_utf8() else "..."


def print_line(text: str) -> None:
    """Write a line to standard output and flush it.

    If its reader or its terminal is gone, the server continues without output.
    """
    try:
        click.echo(text)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        fd = os.open(os.devnull, os.O_WRONLY)
        os.dup2(fd, 1)
        os.close(fd)


def print_json(**values: Any) -> None:
    """Write a line with a JSON object, as `print_line` does."""
    print_line(json.dumps(values))
