"""``noria events replay``: give dead letters to their groups again."""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

import click

from noria.cli.errors import CommandError
from noria.cli.events.connection import json_option, run, url_argument
from noria.cli.events.letters import change_in_batches, change_options, choose, show
from noria.cli.units import plural

if TYPE_CHECKING:
    from noria.bus.bus import Bus
    from noria.bus.dead_letters import DeadLetter
    from noria.bus.event import Event


@click.command(short_help="Give dead letters to their groups again.")
@url_argument
@change_options
@json_option
def replay(
    url: str,
    ids: tuple[str, ...],
    type: str | None,
    group: str | None,
    all_: bool,
    dry_run: bool,
    json: bool,
) -> None:
    """Publish dead letters again, each for the group that could not handle it, and remove them.

    The event keeps its id and its data; its attempts are counted from 1 again. Other groups do not
    get it.

    \b
    Examples:
      noria events replay redis://127.0.0.1 --group thumbnails --dry-run
      noria events replay redis://127.0.0.1 1732875600000-0
      noria events replay redis://127.0.0.1 --type upload.finished
      noria events replay redis://127.0.0.1 --all
    """
    selection = choose(ids, type, group, all_)
    replayed: Counter[str] = Counter()
    invalid: list[str] = []

    async def publish(bus: Bus, letters: list[DeadLetter]) -> None:
        if not dry_run:
            await bus.replay(letters)
        for letter in letters:
            replayed[f"{letter.type} ({letter.group or 'no group'})"] += 1
            if json:
                click.echo(
                    jsonlib.dumps(
                        {
                            "id": letter.id,
                            "type": letter.type,
                            "group": letter.group,
                            "event_id": letter.event.id,
                            "replayed": not dry_run,
                        }
                    )
                )
            elif dry_run:
                show(letter, verbose=False, json=False)

    async def replayable(bus: Bus) -> AsyncIterator[DeadLetter]:
        # An event that fails again meanwhile is a new letter. Replaying it might never end.
        seen: set[tuple[str | None, str, str]] = set()
        async for letter in selection.letters(bus):
            event = _event(letter)
            if event is None:
                invalid.append(letter.id)
                continue
            identity = letter.group, event.source, event.id
            if identity not in seen:
                seen.add(identity)
                yield letter

    try:
        run(url, lambda bus: change_in_batches(replayable(bus), partial(publish, bus)))
        if not (replayed or invalid):
            click.echo("Nothing to replay.", err=True)
    finally:
        if replayed and not json:
            _summarize(replayed, dry_run)
    if invalid:
        single = len(invalid) == 1
        raise CommandError(
            f"{plural(len(invalid), 'letter')} cannot be replayed, since "
            f"{'it is no event' if single else 'they are no events'} that failed: "
            f"{', '.join(invalid[:5])}{', ...' if len(invalid) > 5 else ''}",
            f"'noria events forget URL ID' removes {'it' if single else 'one'}",
        )


def _event(letter: DeadLetter) -> Event | None:
    from noria.errors import InvalidEvent

    try:
        return letter.event
    except InvalidEvent:
        return None


def _summarize(replayed: Counter[str], dry_run: bool) -> None:
    verb = "would replay" if dry_run else "replayed"
    names = ", ".join(f"{number:,} {name}" for name, number in sorted(replayed.items()))
    click.echo(f"{verb} {plural(replayed.total(), 'event')}: {names}")
