"""Messages of transfers on standard error, without progress."""

from __future__ import annotations

import click

from noria.transfer.progress import ProgressReporter


class MessageReporter(ProgressReporter):
    """Prints warnings and retries of one file, but no progress."""

    def __init__(self, name: str) -> None:
        self._name = name

    def message(self, text: str) -> None:
        click.echo(f"noria: {escape_unprintable(self._name)}: {escape_unprintable(text)}", err=True)


def escape_unprintable(text: str) -> str:
    """Return the text on one line, without characters that control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
