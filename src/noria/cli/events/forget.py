"""``noria events forget``: remove dead letters."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from noria.cli.events.connection import run, url_argument
from noria.cli.events.letters import change_in_batches, change_options, choose, show
from noria.cli.units import plural

if TYPE_CHECKING:
    from noria.bus.bus import Bus
    from noria.bus.dead_letters import DeadLetter


@click.command()
@url_argument
@change_options
def forget(
    url: str,
    ids: tuple[str, ...],
    type: str | None,
    group: str | None,
    all_: bool,
    dry_run: bool,
) -> None:
    """Remove dead letters for good.

    \b
    Examples:
      noria events forget redis://127.0.0.1 1732875600000-0
      noria events forget redis://127.0.0.1 --group thumbnails
    """
    selection = choose(ids, type, group, all_)
    removed = 0

    async def remove(bus: Bus, letters: list[DeadLetter]) -> None:
        nonlocal removed
        removed += len(letters)
        if not dry_run:
            await bus.forget(letters)
            return
        for letter in letters:
            show(letter, verbose=False, json=False)

    run(url, lambda bus: change_in_batches(selection.letters(bus), partial(remove, bus)))
    click.echo(f"{'would remove' if dry_run else 'removed'} {plural(removed, 'letter')}")
