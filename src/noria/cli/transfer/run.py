"""Runs the transfers of ``noria get`` and ``noria put``, and reports how they ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import click

from noria.cli.errors import CommandError

if TYPE_CHECKING:
    from noria.transfer.progress import Outcome, ProgressReporter


def require_stream(stream: TextIO | None, name: str, hint: str) -> BinaryIO:
    """Return standard input or output as a binary file. Raises CommandError if it is closed."""
    if stream is None:
        raise CommandError(f"standard {name} is closed", hint)
    return stream.buffer


def run_command(
    start: Callable[[Callable[[str], ProgressReporter]], Coroutine[Any, Any, list[Outcome]]],
    *,
    quiet: bool,
    as_json: bool,
    interrupted: str,
) -> int:
    """Run transfers with progress bars or messages. Returns the exit status, 0 or 1.

    `start` is called with a function that makes the ProgressReporter for a name. `interrupted` is
    printed after Ctrl-C.
    """
    import noria
    from noria.cli.transfer.messages import MessageReporter, escape_unprintable
    from noria.cli.transfer.progress_bars import ProgressBars
    from noria.transfer.errors import TransferError
    from noria.transfer.progress import ProgressReporter

    if as_json:
        require_stream(sys.stdout, "output", "--json writes its summary there")
    show_bars = not quiet and sys.stderr is not None and sys.stderr.isatty()
    bars = ProgressBars() if show_bars else None
    new_reporter: Callable[[str], ProgressReporter]
    if bars is not None:
        new_reporter = bars.new_bar
    else:
        new_reporter = (lambda _: ProgressReporter()) if quiet else MessageReporter
    try:
        with bars or nullcontext():
            outcomes = noria.run(start(new_reporter))
    except TransferError as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"\nnoria: interrupted. {interrupted}", err=True)
        raise
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        name, error_text = escape_unprintable(outcome.name), escape_unprintable(outcome.error)
        click.echo(f"noria: {name}: {error_text}", err=True)
    if as_json:
        click.echo(json.dumps(_summary(outcomes)))
    elif len(outcomes) > 1 and failed and not quiet:
        click.echo(f"noria: {len(failed)} of {len(outcomes)} failed", err=True)
    return 1 if failed else 0


def _summary(outcomes: list[Outcome]) -> dict[str, Any]:
    counts = {"done": 0, "unchanged": 0, "failed": 0}
    for outcome in outcomes:
        counts[outcome.status] += 1
    return {
        **counts,
        "bytes": sum(outcome.sent for outcome in outcomes),
        "files": [outcome.as_dict() for outcome in outcomes],
    }
