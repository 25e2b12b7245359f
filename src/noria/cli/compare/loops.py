"""``noria compare loops``: measures asyncio programs on every event loop that is installed."""

import fnmatch
from typing import Any

import click

from noria.cli.compare.outputs import check_paths, output_options, progress_bar, write_results
from noria.cli.param_types import unknown_choice


def _names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    """The comma-separated words of an option, without repetitions; None if it is not given."""
    if value is None:
        return None
    words = list(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
    if not words:
        raise click.BadParameter("name at least one.")
    from noria.compare.loops import loops, rows

    known = loops.KNOWN if parameter.name == "loops" else [row.name for row in rows.ROWS]
    for word in words:
        if not fnmatch.filter(known, word):
            kind = "loop" if parameter.name == "loops" else "row"
            raise click.BadParameter(unknown_choice(kind, word, known))
    return words


@click.command(short_help="Measure asyncio programs on every event loop.")
@click.option("--quick", is_flag=True, help="Measure for a shorter time: 90 seconds at most.")
@click.option(
    "--loops",
    callback=_names,
    metavar="A,B",
    help="Measure only these, names or patterns such as 'noria-*': asyncio, uvloop, rloop, blazio, "
    "noria-select, noria-poll, noria-epoll, noria-epoll-edge, noria-io_uring.  "
    "[default: all that are installed]",
)
@click.option(
    "--only",
    callback=_names,
    metavar="ROW,...",
    help="Measure only these rows, names or patterns such as 'echo-*'.  [default: all]",
)
@output_options("tables", "compare-loops.html", "figures")
def compare_loops(
    quick: bool,
    loops: list[str] | None,
    only: list[str] | None,
    json: str | None,
    output: str,
) -> None:
    """Measure the same asyncio programs on every event loop that is installed.

    asyncio, uvloop, rloop and blazio, and noria on each of its models: servers under load, tasks,
    callbacks, timers, threads, files, the memory of a connection. All loops of a row are measured
    in turn, several times; a difference is stated only if these rounds agree.

    \b
    Rows: echo-protocol, echo-streams, echo-tls, http-uvicorn, call_soon,
    call_soon-batch, gather, sleep0, timers-fired, timers-cancelled,
    call_soon_threadsafe, run_in_executor, files-read, memory-idle.

    \b
    Examples:
      noria compare loops --quick
      noria compare loops --loops uvloop,noria-epoll --only 'echo-*'
      noria compare loops --json - | jq -r '.rows[] | [.row, .loop, .value] | @tsv'
    """
    check_paths(json, output)
    from noria.compare.loops import comparison
    from noria.compare.loops.terminal import print_all
    from noria.compare.report import loops_page

    try:
        results = _measure(loops, quick, only)
    except comparison.Interrupted as stopped:
        if json != "-" and stopped.results["rows"]:
            from rich.console import Console

            click.echo("Interrupted; this was measured before:", err=True)
            print_all(stopped.results, Console())
        raise
    write_results(results, json, output, print_all, loops_page.write, "The figures are")


def _measure(loops: list[str] | None, quick: bool, only: list[str] | None) -> dict[str, Any]:
    """Measure, with a progress bar on standard error."""
    from noria.compare.loops.comparison import compare

    with progress_bar() as progress:
        return compare(loops, quick=quick, only=only, progress=progress)
