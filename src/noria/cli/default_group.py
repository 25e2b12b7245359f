"""A command with another one, `files`, in the place of its first argument."""

from typing import Any

import click


class Beside(click.Command):
    """`NAME files` has options of its own: those of the command `files`."""

    def __init__(self, *arguments: Any, files: click.Command, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._files = files

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """That of the command that is meant."""
        if args and args[0] == "files":
            return self._files.make_context(f"{info_name} files", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)
