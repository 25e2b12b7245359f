"""A command with one sub-command that takes the place of its first argument."""

from typing import Any

import click


class CommandWithFiles(click.Command):
    """A command NAME whose sub-command `NAME files` has options of its own.

    click.Group does not fit: NAME itself takes an argument.
    """

    def __init__(self, *args: Any, files: click.Command, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._files = files

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Return the context of the command that *args* select."""
        if args and args[0] == "files":
            return self._files.make_context(f"{info_name} files", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)
