"""What the measuring commands share: checks before, progress meanwhile, the numbers after."""

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from noria.cli.errors import Problem, reason

if TYPE_CHECKING:
    from rich.console import Console


def check_places(*paths: str | None) -> None:
    """A mistake is better told before ten minutes of work than after."""
    for path in paths:
        if path not in (None, "-") and not Path(str(path)).absolute().parent.is_dir():
            raise click.UsageError(f"cannot write {path}: there is no such directory.")


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A bar on standard error; call it with the part that is done, 0 to 1, and what begins."""
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


def outputs(shown: str, page: str, figures: str) -> Callable[[F], F]:
    """The options --json and --output: what is shown without them, and the page's usual name."""
    json = click.option(
        "--json",
        "json",
        type=click.Path(dir_okay=False, writable=True, allow_dash=True),
        metavar="FILE",
        help=f"Write every number here too ('-': to standard output, in place of the {shown}).",
    )
    output = click.option(
        "--output",
        type=click.Path(dir_okay=False, writable=True),
        default=page,
        show_default=True,
        help=f"The page with the {figures}; one file, opens offline.",
    )
    return lambda command: json(output(command))


def give(
    results: dict[str, Any],
    json: str | None,
    output: str,
    show: Callable[[dict[str, Any], "Console"], object],
    write_page: Callable[[dict[str, Any], str], object],
    said: str,
) -> None:
    """The numbers where `outputs` says; what is `said` of the page stands before its name."""
    from rich.console import Console

    if json == "-":
        click.echo(jsonlib.dumps(results, indent=1))
    else:
        show(results, Console())
    if json not in (None, "-"):
        write_json(str(json), results)
    write_page(results, output)
    click.echo(f"{said} in {output}", err=True)


def write_json(path: str, results: dict[str, Any]) -> None:
    """Every number in a file."""
    try:
        Path(path).write_text(jsonlib.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise Problem(f"cannot write {path}: {reason(error)}") from None
    click.echo(f"Every number is in {path}", err=True)
