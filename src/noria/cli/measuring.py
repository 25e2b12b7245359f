"""What the measuring commands share: checks before, progress meanwhile, the numbers after."""

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from noria.cli.problems import Problem, reason


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


def write_json(path: str, results: dict[str, Any]) -> None:
    """Every number in a file."""
    try:
        Path(path).write_text(jsonlib.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise Problem(f"cannot write {path}: {reason(error)}") from None
    click.echo(f"Every number is in {path}", err=True)
