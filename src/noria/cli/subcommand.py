"""Commands with sub-commands: ordered groups, and sub-commands in place of an argument."""

from collections.abc import Mapping
from typing import Any

import click


class CommandWithSubcommands(click.Command):
    """A command NAME whose sub-commands, such as `NAME files`, have options of their own.

    click.Group does not fit: NAME itself takes an argument.
    """

    def __init__(self, *args: Any, subcommands: Mapping[str, click.Command], **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._subcommands = dict(subcommands)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Return the context of the command that *args* select."""
        if args and args[0] in self._subcommands:
            return self._subcommands[args[0]].make_context(
                f"{info_name} {args[0]}", args[1:], parent, **extra
            )
        return super().make_context(info_name, args, parent, **extra)


class OrderedGroup(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, not sorted."""
        return list(self.commands)
