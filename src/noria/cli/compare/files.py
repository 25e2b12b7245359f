"""``noria compare files``: where the bytes of a file are after each step, measured."""

import shutil
from typing import Any

import click

from noria.cli.compare.outputs import check_places, give, outputs, progress_bar
from noria.cli.errors import Problem, reason
from noria.cli.sizes import Size

MOST = 1024**3  # bytes: what is written is held in memory several times
ROOM = 3  # times the size that has to be free: two engines, and one file more than is kept


def _allowed(context: click.Context, parameter: click.Parameter, size: int | None) -> int | None:
    if size is not None and size > MOST:
        raise click.BadParameter("1 GiB is the most: it is held in memory several times.")
    return size


@click.command(short_help="The path of a file's bytes to the device, measured.")
@click.option(
    "--size",
    type=Size(),
    metavar="SIZE",
    callback=_allowed,
    help="How much is written: 64K, 8MiB.  [default: 8MiB, with --quick 1MiB]",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, writable=True),
    default=".",
    metavar="DIR",
    help="Where the files are made, and removed again.  [default: the current directory]",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="How often; the medians are told.  [default: 9, with --quick 3]",
)
@click.option("--quick", is_flag=True, help="Less and fewer: done within seconds.")
@outputs("drawing", "compare-files.html", "figure")
def compare_files(
    size: int | None,
    directory: str,
    repeats: int | None,
    quick: bool,
    json: str | None,
    output: str,
) -> None:
    """Measure the path of a file's bytes: process buffer, page cache, device.

    A file is written by noria.open, flushed, synced and read back, also past the cache
    (direct=True), by a ring of io_uring and by threads. After each step the kernel is asked where
    the bytes are, by cachestat(2), or mincore(2) where that is refused.

    \b
    Examples:
      noria compare files --quick
      noria compare files --size 64MiB --dir /var/tmp
      noria compare files --json - | jq '.rows[] | [.engine, .step, .us]'
    """
    check_places(json, output)
    results = _measure(directory, size, repeats, quick)
    from noria.compare.files import page
    from noria.compare.files.terminal import print_all

    give(results, json, output, print_all, page.write, "The figure is")


def _measure(directory: str, size: int | None, repeats: int | None, quick: bool) -> dict[str, Any]:
    """Run it with its progress on standard error."""
    from noria.compare.files import run
    from noria.compare.files.figure import amount
    from noria.compare.measure.child import ChildFailed

    needed = ROOM * (size or (run.QUICK_SIZE if quick else run.SIZE))
    room = shutil.disk_usage(directory)
    if room.total and room.free < needed:  # a file system without a limit tells 0 of both
        raise Problem(
            f"{directory}: {amount(room.free)} free, and {amount(needed)} are needed",
            "choose another place with --dir, or less with --size",
        )
    try:
        with progress_bar() as progress:
            return run.measure(
                directory, size=size, repeats=repeats, quick=quick, progress=progress
            )
    except ChildFailed as failed:
        raise Problem(f"cannot measure in {directory}: {failed}") from None
    except OSError as error:
        raise Problem(f"cannot measure in {directory}: {reason(error)}") from None
