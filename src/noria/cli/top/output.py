"""What ``noria top`` prints: lists, text, JSON, and where a dump is."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from noria.cli.errors import CommandError
from noria.cli.standard_output import is_utf8, output_width
from noria.errors import NoriaError

if TYPE_CHECKING:
    from noria.sight.client import Client
    from noria.sight.top.session import Session, View

STYLES: dict[str, dict[str, Any]] = {
    "dim": {"dim": True},
    "good": {"fg": "green"},
    "warn": {"fg": "yellow"},
    "bad": {"fg": "red", "bold": True},
    "accent": {"fg": "cyan"},
    "strong": {"bold": True},
}
ASCII = str.maketrans({"…": "~", "µ": "u", "–": "-", "•": "-", "▸": ">"})


def print_list(*, json: bool) -> None:
    """Print the processes that can be observed, as a table or as a list in JSON."""
    from noria.sight.top.choices import process_table
    from noria.sight.top.lines import plain
    from noria.sight.top.processes import HOW, processes
    from noria.sight.top.text import table_lines

    found = processes()
    if json:
        click.echo(jsonlib.dumps([asdict(process) for process in found], indent=2))
        return
    if not found:
        click.echo(f"No process is watched by noria: {HOW}.", err=True)
        return
    table = process_table()
    rows = table.rows(found, lambda process: process.pid)
    for line in table_lines(table, rows, output_width(), limit=len(rows)):
        click.echo(plain(line).rstrip())


def dump(client: Client, path: str) -> None:
    """Write the flight recording of the process, even if it does not answer."""
    from noria.sight.top.session import reason

    with client:
        try:
            records = client.dump(path)
        except (NoriaError, OSError) as error:
            raise CommandError(f"cannot write {path}: {reason(error)}") from error
    click.echo(f"{records:,} records written to {path}; 'noria report {path}' shows them")


def print_text(session: Session, *, once: bool) -> None:
    """Print observations as text until the process ends."""
    from noria.sight.top.text import unpainted, view_text

    ascii = not is_utf8()
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    colours = colours and os.environ.get("TERM", "dumb") != "dumb"

    def show(view: View) -> None:
        paint = _paint if colours else unpainted
        text = view_text(session, view, output_width(), paint, ascii=ascii)
        click.echo((text.translate(ASCII) if ascii else text) + ("" if once else "\n"))

    _observe(session, once, show)


def print_json(session: Session, *, once: bool) -> None:
    """Print an observation in a line until the process ends."""
    from noria.sight.top.json_lines import view_json

    _observe(session, once, lambda view: click.echo(view_json(view)))


def _observe(session: Session, once: bool, show: Callable[[View], None]) -> None:
    """Call *show* with each observation. Raises CommandError if the process cannot be observed."""
    due = time.monotonic()
    try:
        while True:
            view = session.step()
            if not view.observed:
                raise CommandError(view.error or "the process has ended")
            if view.error and not view.ended:
                click.echo(f"noria: {view.error}", err=True)
            else:
                show(view)
                sys.stdout.flush()
            if view.ended:
                click.echo(f"noria: process {view.observation.pid} has ended", err=True)
                return
            if once:
                return
            due = max(due + session.interval, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))
    finally:
        session.close()


def _paint(text: str, style: str) -> str:
    for name in style.split():
        text = click.style(text, **STYLES[name])
    return text
