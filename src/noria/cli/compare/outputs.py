"""What the compare commands share: output options, the progress bar, writing the results."""

import json as jsonlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from noria.cli.errors import CommandError
from noria.errors import os_error_reason

if TYPE_CHECKING:
    from rich.console import Console


def check_paths(*paths: str | None) -> None:
    """Raise UsageError before the measurement if a result could not be written after it."""
    for path in paths:
        if path in (None, "-"):
            continue
        directory = Path(str(path)).absolute().parent
        if not directory.is_dir():
            raise click.UsageError(f"cannot write {path}: no such directory.")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise click.UsageError(f"cannot write {path}: its directory is not writable.")


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A bar on standard error. Yields a function of the part done (0 to 1) and the next step."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("[progress.percentage]{task.percentage:>3.0f}%"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda done, what: bar.update(task, completed=done, description=what)


F = TypeVar("F", bound=Callable[..., Any])


def output_options(shown: str, page: str, figures: str) -> Callable[[F], F]:
    """Return a decorator that adds --json and --output to a command.

    `shown` is what the command prints, `page` the default of --output, `figures` what is on it.
    """
    json = click.option(
        "--json",
        "json",
        type=click.Path(dir_okay=False, writable=True, allow_dash=True),
        metavar="FILE",
        help=f"Write all numbers to this file ('-': to standard output, instead of the {shown}).",
    )
    output = click.option(
        "--output",
        type=click.Path(dir_okay=False, writable=True),
        default=page,
        show_default=True,
        help=f"HTML page with the {figures}: one file that works offline.",
    )
    return lambda command: json(output(command))


def write_results(
    results: dict[str, Any],
    json: str | None,
    output: str,
    show: Callable[[dict[str, Any], "Console"], object],
    write_page: Callable[[dict[str, Any], str], object],
    page_message: str,
) -> None:
    """Write or print the results as the options say; `page_message` precedes the page's name.

    The files come first: they are written even if standard output is closed early, as by head(1).
    """
    from rich.console import Console

    if json not in (None, "-"):
        _write_json(str(json), results)
    write_page(results, output)
    if json == "-":
        click.echo(jsonlib.dumps(results, indent=1))
    else:
        show(results, Console())
    if json not in (None, "-"):
        click.echo(f"All numbers are in {json}", err=True)
    click.echo(f"{page_message} in {output}", err=True)


def _write_json(path: str, results: dict[str, Any]) -> None:
    try:
        Path(path).write_text(jsonlib.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {os_error_reason(error)}") from None
