"""Dead letters that a command has selected, and how they are shown."""

from __future__ import annotations

import datetime
import json as jsonlib
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from noria.cli.connect.terminal_text import escape, escape_line
from noria.cli.errors import CommandError
from noria.cli.standard_output import ellipsis, output_width
from noria.cli.units import plural

if TYPE_CHECKING:
    from noria.bus.bus import Bus
    from noria.bus.dead_letters import DeadLetter

# Letters that are replayed or removed together.
BATCH = 100


@dataclass(frozen=True)
class Selection:
    """Selects letters by their ids, type and group; all letters without any of them."""

    ids: tuple[str, ...] = ()
    type: str | None = None
    group: str | None = None

    async def letters(self, bus: Bus) -> AsyncIterator[DeadLetter]:
        """Yield the letters, the oldest first.

        Raises CommandError for ids that do not exist, after the others.
        """
        missing = set(self.ids)
        async for letter in bus.dead_letters(type=self.type, group=self.group):
            if self.ids and not missing:
                break
            if self.ids and letter.id not in missing:
                continue
            missing.discard(letter.id)
            yield letter
        if missing:
            raise CommandError(
                f"there is no dead letter {', '.join(sorted(missing))}",
                "'noria events dead URL' lists them",
            )


async def change_in_batches(
    letters: AsyncIterator[DeadLetter], change: Callable[[list[DeadLetter]], Awaitable[object]]
) -> None:
    """Call `change` with BATCH letters at a time; if `letters` raises, with those before, too."""
    batch: list[DeadLetter] = []
    try:
        async for letter in letters:
            batch.append(letter)
            if len(batch) == BATCH:
                # A batch that fails is not repeated below: a part of it may be done.
                full, batch = batch, []
                await change(full)
    finally:
        if batch:
            await change(batch)


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ID..., --type and --group."""
    command = click.option("--group", metavar="GROUP", help="Only letters of this group.")(command)
    command = click.option("--type", metavar="TYPE", help="Only letters of this type.")(command)
    return click.argument("ids", metavar="[ID]...", nargs=-1)(command)


def change_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that changes letters: a selection, --all and --dry-run."""
    command = click.option(
        "--dry-run", is_flag=True, help="Show which letters it would be, and do nothing."
    )(command)
    command = click.option("--all", "all_", is_flag=True, help="All letters.")(command)
    return selection_options(command)


def choose(ids: tuple[str, ...], type: str | None, group: str | None, all_: bool) -> Selection:
    """Return the selection of a command that changes letters. Raises UsageError without any."""
    if all_ and (ids or type is not None or group is not None):
        raise click.UsageError("--all cannot be combined with ids, --type and --group.")
    if not (all_ or ids or type is not None or group is not None):
        raise click.UsageError("choose letters: by their ids, --type or --group, or --all.")
    return Selection(ids, type, group)


def show(letter: DeadLetter, *, verbose: bool, json: bool) -> None:
    """Print a letter."""
    if json:
        click.echo(jsonlib.dumps(letter.as_dict(), ensure_ascii=False))
        return
    what = click.style(escape_line(letter.type or "no event"), fg="cyan")
    click.echo(
        f"{click.style(letter.id, bold=True)}  {_local(letter.time)}  {what} "
        f"({escape_line(letter.group or 'no group')}), {plural(letter.attempts, 'attempt')}"
    )
    width = max(output_width(), 20)
    error = escape_line(" ".join(letter.error.split()))
    if not verbose:
        error = textwrap.shorten(error, 2 * (width - 4), placeholder=f" {ellipsis()}")
    click.echo(click.style(_indent(error, width), fg="red"))
    if verbose:
        event = letter.as_dict()["event"]
        shown = jsonlib.dumps(event, ensure_ascii=False, indent=2) if event else repr(letter.body)
        click.echo(textwrap.indent(escape(f"worker {letter.worker}\n{shown}"), "    "))
        trace = escape(letter.traceback.rstrip())
        click.echo(click.style(textwrap.indent(trace, "    "), dim=True))


def _indent(text: str, width: int) -> str:
    return textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ")


def _local(time: str) -> str:
    """Return the date and time here."""
    try:
        found = datetime.datetime.fromisoformat(time)
    except ValueError:
        return escape_line(time)
    return found.astimezone().strftime("%Y-%m-%d %H:%M:%S")
