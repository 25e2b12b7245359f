"""``noria compare``: the experiment, every model measured on this machine."""

import json as jsonlib
from pathlib import Path
from typing import Any

import click

from noria.cli.names import Words
from noria.cli.problems import Problem, reason

SECTIONS = ("throughput", "phases", "waiting", "idle", "triggers")


@click.command()
@click.option("--quick", is_flag=True, help="Shorter runs: done within a minute.")
@click.option(
    "--models",
    "models",
    type=Words("model"),
    metavar="A,B",
    help="Only these models.  [default: all of them]",
)
@click.option(
    "--only",
    type=Words("question", SECTIONS),
    metavar="A,B",
    help=f"Only these questions: {', '.join(SECTIONS)}.",
)
@click.option(
    "--json",
    "json",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    metavar="FILE",
    help="Write every number here too ('-': to standard output, in place of the tables).",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True),
    default="compare.html",
    show_default=True,
    help="The page with the figures; one file, opens offline.",
)
def compare(
    quick: bool,
    models: list[str] | None,
    only: list[str] | None,
    json: str | None,
    output: str,
) -> None:
    """Measure every model on this machine and draw the differences.

    The same echo server runs on each model in a process of its own, with a load generator on
    another core. Five questions: throughput, the two phases of an input (waiting and copying),
    clients that wait, idle connections, level and edge triggering.

    Tables appear here; the figures go to one HTML file.

    \b
    Examples:
      noria compare --quick
      noria compare --models select,epoll,io_uring --only idle
      noria compare --quick --json - | jq .throughput.rows
    """
    for path in (json, output):  # a mistake is better told before ten minutes of work than after
        if path not in (None, "-") and not Path(str(path)).absolute().parent.is_dir():
            raise click.UsageError(f"cannot write {path}: there is no such directory.")
    results = _measure(models, quick, only)
    from rich.console import Console

    if json == "-":
        click.echo(jsonlib.dumps(results, indent=1))
    else:
        from noria.compare.tables import print_tables

        print_tables(results, Console())
    if json not in (None, "-"):
        _write_json(str(json), results)
    from noria.compare import report

    report.write(results, output)
    click.echo(f"The figures are in {output}", err=True)


def _measure(models: list[str] | None, quick: bool, only: list[str] | None) -> dict[str, Any]:
    """Run the experiment with its progress on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from noria.compare.run import compare as measure

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

        def progress(done: float, what: str) -> None:
            bar.update(task, completed=done, description=what)

        results: dict[str, Any] = measure(models=models, quick=quick, only=only, progress=progress)
        return results


def _write_json(path: str, results: dict[str, Any]) -> None:
    try:
        Path(path).write_text(jsonlib.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise Problem(f"cannot write {path}: {reason(error)}") from None
    click.echo(f"Every number is in {path}", err=True)
