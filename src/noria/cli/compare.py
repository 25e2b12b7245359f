"""``noria compare``: the experiment, every model measured on this machine."""

import json as jsonlib
from typing import Any

import click

from noria.cli.compare_files import compare_files
from noria.cli.measuring import check_places, progress_bar, write_json
from noria.cli.names import Words

SECTIONS = ("throughput", "phases", "waiting", "idle", "triggers")


class Compare(click.Command):
    """`compare files` has options of its own: it is a command in the place of an argument."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """That of the command that is meant."""
        if args and args[0] == "files":
            return compare_files.make_context(f"{info_name} files", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=Compare)
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
    from rich.console import Console

    if json == "-":
        click.echo(jsonlib.dumps(results, indent=1))
    else:
        from noria.compare.tables import print_tables

        print_tables(results, Console())
    if json not in (None, "-"):
        write_json(str(json), results)
    from noria.compare import report

    report.write(results, output)
    click.echo(f"The figures are in {output}", err=True)


def _measure(models: list[str] | None, quick: bool, only: list[str] | None) -> dict[str, Any]:
    """Run the experiment with its progress on standard error."""
    from noria.compare.run import compare as measure

    with progress_bar() as progress:
        results: dict[str, Any] = measure(models=models, quick=quick, only=only, progress=progress)
        return results
