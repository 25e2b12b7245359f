"""``--metrics [[HOST:]PORT]``, an option whose address may be left out."""

from __future__ import annotations

from typing import Any

import click

from noria.cli.metrics_server import OPTION
from noria.cli.param_types import ADDRESS, Address

NO_ADDRESS = ("", -1)  # what --metrics without an address means


class OptionalAddress(Address):
    """As Address; an empty value is NO_ADDRESS."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return (host, port), or NO_ADDRESS. Raises click.BadParameter."""
        return super().convert(value, param, ctx) if value else NO_ADDRESS


class CommandWithOptionalAddress(click.Command):
    """A command whose option --metrics may have an address, and may be followed by a directory.

    Click's options with an optional value take any word that follows.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; a word after --metrics is its value if it is an address."""
        joined: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                joined.append(word)
                break
            if joined and joined[-1] == OPTION:
                joined[-1] = f"{OPTION}="
                if ADDRESS.fullmatch(word):
                    joined[-1] += word
                    continue
            joined.append(word)
        if joined and joined[-1] == OPTION:
            joined[-1] = f"{OPTION}="
        return super().parse_args(ctx, [*joined, *words])
