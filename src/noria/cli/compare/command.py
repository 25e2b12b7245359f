"""``noria compare``: the experiment, every model measured on this machine."""

from typing import Any

import click

from noria.cli.compare.files import compare_files
from noria.cli.compare.outputs import check_places, give, outputs, progress_bar
from noria.cli.default_group import Beside
from noria.cli.param_types import Words

SECTIONS = ("throughput", "phases", "waiting", "idle", "triggers")


@click.command(cls=Beside, files=compare_files)
@click.argument("what", metavar="[files]", required=False, type=click.Choice(["files"]))
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
@outputs("tables", "compare.html", "figures")
def compare(
    what: str | None,
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

    'noria compare files' measures the path of a file's bytes to the device instead, and has options
    of its own: see 'noria compare files --help'.

    \b
    Examples:
      noria compare --quick
      noria compare --models select,epoll,io_uring --only idle
      noria compare --quick --json - | jq .throughput.rows
    """
    if what is not None:
        raise click.UsageError("write 'files' first, then its options: noria compare files ...")
    check_places(json, output)
    results = _measure(models, quick, only)
    from noria.compare.report import page
    from noria.compare.report.tables import print_tables

    give(results, json, output, print_tables, page.write, "The figures are")


def _measure(models: list[str] | None, quick: bool, only: list[str] | None) -> dict[str, Any]:
    """Run the experiment with its progress on standard error."""
    from noria.compare.measure.run import compare as measure

    with progress_bar() as progress:
        results: dict[str, Any] = measure(models=models, quick=quick, only=only, progress=progress)
        return results
