"""``noria compare files``: measures where a file's bytes are after each step of a write."""

import shutil
from typing import Any

import click

from noria.cli.compare.outputs import check_paths, output_options, progress_bar, write_results
from noria.cli.errors import CommandError
from noria.cli.param_types import Size
from noria.errors import os_error_reason

MAX_SIZE_BYTES = 1024**3  # the data is in memory several times
MAX_FILES_AT_ONCE = 3  # one for each of two engines, and one that is being replaced


def _check_size(ctx: click.Context, parameter: click.Parameter, size: int | None) -> int | None:
    if size is not None and size > MAX_SIZE_BYTES:
        raise click.BadParameter("the maximum is 1 GiB, as the data is in memory several times.")
    return size


@click.command(short_help="Measure the path of a file's bytes to the device.")
@click.option(
    "--size",
    type=Size(),
    metavar="SIZE",
    callback=_check_size,
    help="Size of the file: 64K, 8MiB.  [default: 8MiB, with --quick 1MiB]",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, writable=True),
    default=".",
    metavar="DIR",
    help="Directory for the temporary files.  [default: the current directory]",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Number of repetitions; medians are reported.  [default: 9, with --quick 3]",
)
@click.option(
    "--quick", is_flag=True, help="Use a smaller file and fewer repetitions: a few seconds."
)
@output_options("drawing", "compare-files.html", "figure")
def compare_files(
    size: int | None,
    directory: str,
    repeats: int | None,
    quick: bool,
    json: str | None,
    output: str,
) -> None:
    """Measure the path of a file's bytes: process buffer, page cache, device.

    A file is written with noria.open, flushed, synced and read back, with and without the page
    cache (direct=True), by io_uring and by threads. After each step the command gets from the
    kernel where the bytes are, with cachestat(2), or with mincore(2) if that is refused.

    \b
    Examples:
      noria compare files --quick
      noria compare files --size 64MiB --dir /var/tmp
      noria compare files --json - | jq '.rows[] | [.engine, .step, .us]'
    """
    check_paths(json, output)
    results = _measure(directory, size, repeats, quick)
    from noria.compare.files import page
    from noria.compare.files.terminal import print_all

    write_results(results, json, output, print_all, page.write, "The figure is")


def _measure(directory: str, size: int | None, repeats: int | None, quick: bool) -> dict[str, Any]:
    """Measure, with a progress bar on standard error. Raises CommandError."""
    from noria.compare.files import run
    from noria.compare.files.figure import amount
    from noria.compare.measure.child import ChildFailed

    needed = MAX_FILES_AT_ONCE * (size or (run.QUICK_SIZE if quick else run.SIZE))
    usage = shutil.disk_usage(directory)
    if usage.total and usage.free < needed:  # a file system without a limit reports 0 for both
        raise CommandError(
            f"{directory}: not enough space: {amount(needed)} needed, {amount(usage.free)} free",
            "choose another directory with --dir, or a smaller --size",
        )
    try:
        with progress_bar() as progress:
            return run.measure(
                directory, size=size, repeats=repeats, quick=quick, progress=progress
            )
    except ChildFailed as failed:
        raise CommandError(f"cannot measure in {directory}: {failed}") from None
    except OSError as error:
        raise CommandError(f"cannot measure in {directory}: {os_error_reason(error)}") from None
