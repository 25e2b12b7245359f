"""``noria events lag``: how far groups are behind."""

from __future__ import annotations

import dataclasses
import fnmatch
import json as jsonlib
from typing import TYPE_CHECKING

import click

from noria.cli.errors import CommandError
from noria.cli.events.connection import json_option, run, url_argument
from noria.cli.tables import print_table, table

if TYPE_CHECKING:
    from noria.bus.contract import Lag

NUMBERS = ("waiting", "in flight", "delayed")


@click.command(short_help="Show how far groups are behind.")
@url_argument
@click.option("--type", metavar="TYPE", help="Only this type; * and ? are wildcards.")
@click.option("--group", metavar="GROUP", help="Only this group; * and ? are wildcards.")
@click.option(
    "--max",
    "maximum",
    metavar="N",
    type=click.IntRange(0),
    help="Exit with status 1 if more than N events wait for a group.",
)
@json_option
def lag(url: str, type: str | None, group: str | None, maximum: int | None, json: bool) -> None:
    """Show for each type and group how many events wait, are in flight, and are delayed.

    Waiting: no worker has taken them yet. In flight: taken and not acknowledged; retries that wait
    for their time are among them.

    \b
    Examples:
      noria events lag redis://127.0.0.1
      watch noria events lag redis://127.0.0.1 --group thumbnails
      noria events lag redis://127.0.0.1 --max 1000 > /dev/null || alert
    """
    found = run(url, lambda bus: bus.lag())
    rows = [each for each in found if _matches(each.type, type) and _matches(each.group, group)]
    if not rows and (type is not None or group is not None):
        known = ", ".join(sorted({f"{each.type} ({each.group or 'no group'})" for each in found}))
        raise CommandError(
            "the broker has no such type and group", f"it has: {known}" if known else ""
        )
    if json:
        for each in rows:
            click.echo(jsonlib.dumps(dataclasses.asdict(each)))
    elif rows:
        _print(rows)
    else:
        click.echo("The broker knows no types of events and no groups.", err=True)
    _check(rows, maximum)


def _matches(name: str | None, pattern: str | None) -> bool:
    return pattern is None or (name is not None and fnmatch.fnmatchcase(name, pattern))


def _print(rows: list[Lag]) -> None:
    made = table("type", "group", *NUMBERS, numbers=NUMBERS)
    for each in rows:
        made.add_row(
            each.type,
            each.group or "[dim]no group[/]",
            _number(each.waiting, "yellow"),
            _number(each.in_flight),
            _number(each.delayed),
        )
    print_table(made)


def _number(number: int | None, style: str = "") -> str:
    if number is None:
        return "?"
    return f"[{style}]{number:,}[/]" if style and number else f"{number:,}"


def _check(rows: list[Lag], maximum: int | None) -> None:
    """Raise CommandError if a group is too far behind."""
    if maximum is None:
        return
    late = [each for each in rows if each.group is not None and (each.waiting or 0) > maximum]
    if late:
        names = ", ".join(f"{each.type} ({each.group}): {each.waiting:,}" for each in late)
        raise CommandError(f"more than {maximum:,} events wait: {names}")
