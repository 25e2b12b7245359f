"""``noria compare``: measures every model on this machine."""

from typing import Any

import click

from noria.cli.compare.files import compare_files
from noria.cli.compare.loops import compare_loops
from noria.cli.compare.outputs import check_paths, output_options, progress_bar, write_results
from noria.cli.param_types import ChoiceList
from noria.cli.subcommand import CommandWithSubcommands

SECTIONS = ("throughput", "phases", "waiting", "idle", "triggers")


@click.command(
    cls=CommandWithSubcommands, subcommands={"files": compare_files, "loops": compare_loops}
)
@click.argument(
    "what", metavar="[files|loops]", required=False, type=click.Choice(["files", "loops"])
)
@click.option("--quick", is_flag=True, help="Measure for a shorter time: under a minute in all.")
@click.option(
    "--models",
    "models",
    type=ChoiceList("model"),
    metavar="A,B",
    help="Measure only these models.  [default: all]",
)
@click.option(
    "--only",
    type=ChoiceList("section", SECTIONS),
    metavar="A,B",
    help=f"Measure only these sections: {', '.join(SECTIONS)}.  [default: all]",
)
@output_options("tables", "compare.html", "figures")
def compare(
    what: str | None,
    quick: bool,
    models: list[str] | None,
    only: list[str] | None,
    json: str | None,
    output: str,
) -> None:
    """Measure every model on this machine and draw the differences.

    The same echo server runs on each model in a separate process, with a load generator on another
    core. Five sections: throughput, the two phases of an input operation (waiting and copying),
    waiting clients, idle connections, level and edge triggering.

    Each number is measured in several rounds, in which the models take turns. A difference is
    stated only if it is larger than what the rounds differ by; else the output says that no
    difference could be measured. Tables are printed; the figures are written to one HTML file.

    Instead, 'noria compare loops' measures asyncio programs on event loops, and 'noria compare
    files' the path of a file's bytes to the device. They have their own options: see
    'noria compare loops --help', and 'noria compare files --help'.

    \b
    Examples:
      noria compare --quick
      noria compare --models select,epoll,io_uring --only idle
      noria compare --quick --json - | jq .throughput.rows
    """
    if what is not None:
        raise click.UsageError(f"'{what}' must come before its options: noria compare {what} ...")
    check_paths(json, output)
    results = _measure(models, quick, only)
    from noria.compare.report import page
    from noria.compare.report.tables import print_tables

    write_results(results, json, output, print_tables, page.write, "The figures are")


def _measure(models: list[str] | None, quick: bool, only: list[str] | None) -> dict[str, Any]:
    """Measure, with a progress bar on standard error."""
    from noria.compare.measure.run import compare as measure

    with progress_bar() as progress:
        results: dict[str, Any] = measure(models=models, quick=quick, only=only, progress=progress)
    from noria.compare.report.claims import claims

    return results | {"claims": claims(results)}
