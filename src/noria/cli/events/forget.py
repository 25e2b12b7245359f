"""``noria events forget``: remove dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noria.cli.events.connection import run, url_argument
from noria.cli.events.letters import change_options, choose, show
from noria.cli.units import plural

if TYPE_CHECKING:
    from noria.bus.bus import Bus
    from noria.bus.dead_letters import DeadLetter

BATCH = 100


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

    async def remove(bus: Bus) -> int:
        removed = 0
        batch: list[DeadLetter] = []
        try:
            async for letter in selection.letters(bus):
                removed += 1
                if dry_run:
                    show(letter, verbose=False, json=False)
                    continue
                batch.append(letter)
                if len(batch) == BATCH:
                    await bus.forget(batch)
                    batch = []
        finally:
            await bus.forget(batch)
        return removed

    removed = run(url, remove)
    click.echo(f"{'would remove' if dry_run else 'removed'} {plural(removed, 'letter')}")
