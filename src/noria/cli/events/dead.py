"""``noria events dead``: the events that failed for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noria.cli.events.connection import json_option, run, url_argument
from noria.cli.events.letters import Selection, selection_options, show

if TYPE_CHECKING:
    from noria.bus.bus import Bus

DEFAULT_LIMIT = 20


@click.command(short_help="List the events that failed for good.")
@url_argument
@selection_options
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    default=DEFAULT_LIMIT,
    show_default=True,
    help="Show at most N, the oldest ones.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show the events and the tracebacks.")
@json_option
def dead(
    url: str,
    ids: tuple[str, ...],
    type: str | None,
    group: str | None,
    limit: int,
    verbose: bool,
    json: bool,
) -> None:
    """List dead letters, the oldest first: events whose handler failed for good, with the error.

    With ids, show these letters with all that is known of them.

    \b
    Examples:
      noria events dead redis://127.0.0.1
      noria events dead redis://127.0.0.1 --group thumbnails -v
      noria events dead redis://127.0.0.1 --json --limit 1000 | jq -r .error
    """
    selection = Selection(ids, type, group)

    async def list_letters(bus: Bus) -> tuple[int, bool]:
        shown = 0
        async for letter in selection.letters(bus):
            if shown == limit and not ids:
                return shown, True
            show(letter, verbose=verbose or bool(ids), json=json)
            shown += 1
        return shown, False

    shown, more = run(url, list_letters)
    if not shown:
        click.echo("There are no dead letters.", err=True)
    elif more:
        click.echo(f"There are more than {limit:,}: --limit N shows them.", err=True)
    elif not json and not ids:
        click.echo("'noria events replay URL ID' gives one to its group again.", err=True)
