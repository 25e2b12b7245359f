"""What a transfer has to tell where there is no terminal: lines on standard error."""

from __future__ import annotations

import click

from noria.transfer.session import Bar


class Noted(Bar):
    """Shows no progress, but says what the user should know of while it goes on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def note(self, text: str) -> None:
        click.echo(f"noria: {plain(self._name)}: {plain(text)}", err=True)


def plain(text: str) -> str:
    """A name on one line, without what would make a terminal do things."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
