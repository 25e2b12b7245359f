"""``noria report``: a recording as a page, as text, as JSON and as a trace."""

from __future__ import annotations

import errno
import json as jsonlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from noria.cli.errors import CommandError
from noria.cli.standard_output import output_width
from noria.cli.threshold_option import threshold_option

if TYPE_CHECKING:
    from noria.sight.findings import Finding
    from noria.sight.observation import Observation
    from noria.sight.recording import Recording

UNTIL_THE_END = 1 << 62  # later than any time in ns
HOW = "noria run --record FILE SCRIPT makes one"


@click.command()
@click.argument("recording", metavar="FILE", type=click.Path())
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write the page to FILE; default: the recording's name with .html.",
)
@click.option("--open", "open_", is_flag=True, help="Open the page in a browser.")
@click.option("--text", is_flag=True, help="Print figures and findings as text.")
@click.option("--json", is_flag=True, help="Print figures and findings as one object of JSON.")
@click.option(
    "--perfetto",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write a trace for ui.perfetto.dev and the Firefox Profiler; FILE.json or FILE.json.gz.",
)
@click.option(
    "--loop", type=click.IntRange(min=0), metavar="N", help="Only loop N, of several; from 0."
)
@click.option(
    "--from",
    "from_",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Only what happened from then on; 0 is the recording's first record.",
)
@click.option(
    "--to", type=click.FloatRange(min=0), metavar="SECONDS", help="Only what happened before then."
)
@threshold_option
def report(
    recording: str,
    output: str | None,
    open_: bool,
    text: bool,
    json: bool,
    perfetto: str | None,
    loop: int | None,
    from_: float | None,
    to: float | None,
) -> None:
    """Show what a program's event loops did, from the recording FILE.

    FILE was written by 'noria run --record', noria.record(), or 'noria top --dump'; it may be
    truncated, or be written still. The result is one HTML page that needs no network. With --text,
    --json or --perfetto, the page is written only if --output or --open is given.

    \b
    Examples:
      noria report run.noria --open              write run.html and open it
      noria report run.noria --text | less       print it
      noria report run.noria --json | jq .findings[].title
      noria report run.noria --perfetto run.json.gz
      noria report run.noria --from 12 --to 14.5 --open
      noria report run.noria --threshold block=20ms --threshold gc-share=5%
    """
    if text and json:
        raise click.UsageError("--text and --json cannot be used together.")
    if from_ is not None and to is not None and to <= from_:
        raise click.UsageError("--to must be later than --from.")
    wants_page = output is not None or open_ or not (text or json or perfetto is not None)
    page = (output or os.fspath(_page_path(recording))) if wants_page else None
    for target in filter(None, (page, perfetto)):
        _check_output(target, recording)
    with _open(recording) as opened:
        if from_ is not None or to is not None:
            _select(opened, from_ or 0, to)
        observation = _observe(opened, loop)
        from noria.sight.findings import find

        findings = find(observation)
        if opened.truncated:
            ignored = opened.ignored
            more = f": its last {ignored:,} bytes are ignored" if ignored else ""
            _note(f"{recording} is truncated{more}")
        if text:
            _print_text(observation, findings)
        if json:
            from noria.sight.report.document import document

            click.echo(jsonlib.dumps(document(observation, findings), indent=2))
        if perfetto is not None:
            from noria.sight.report.perfetto import write_trace

            size = write_trace(opened, observation, perfetto, _chosen(observation))
            _wrote(perfetto, size, quiet=text or json)
        if page is not None:
            size = _write_page(opened, observation, findings, page)
            _wrote(page, size, quiet=text or json, findings=len(findings))
    if open_ and page is not None:
        click.launch(Path(page).resolve().as_uri())


def _page_path(recording: str) -> Path:
    path = Path(recording)
    if not path.name:  # such as ".": a directory, which _open refuses
        return path
    return path.with_name(f"{path.name if path.suffix == '.html' else path.stem}.html")


def _check_output(path: str, recording: str) -> None:
    """Raise CommandError if a result would overwrite the recording, or has no directory."""
    if os.path.exists(path) and os.path.exists(recording) and os.path.samefile(path, recording):
        raise CommandError(f"{path} is the recording itself", "choose another name")
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise CommandError(f"cannot write {path}: there is no directory {directory}")


def _open(path: str) -> Recording:
    """Open the recording. Raises CommandError with what the file is instead."""
    from noria.errors import RecordingError
    from noria.sight.recording import Recording

    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        # A pipe or a device: it cannot be mapped into memory.
        raise CommandError(f"{path} is not a regular file, so it is no recording", HOW)
    try:
        return Recording.open(path)
    except FileNotFoundError:
        raise CommandError(f"{path}: there is no such file", HOW) from None
    except IsADirectoryError:
        raise CommandError(f"{path} is a directory, not a recording", HOW) from None
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EACCES) and os.path.exists(path):
            reason = error.strerror or str(error)
            raise CommandError(f"cannot read {path}: {reason}") from None
        raise
    except RecordingError as error:
        if os.path.getsize(path) == 0:
            found = _child_recordings(path)
            raise CommandError(
                f"{path} is empty: nothing was recorded, as no loop of noria's has run",
                f"its child processes recorded {', '.join(found)}" if found else HOW,
            ) from None
        raise CommandError(str(error), HOW) from None


def _child_recordings(path: str) -> list[str]:
    """Return the recordings of child processes, at most three."""
    root, extension = os.path.splitext(path)
    pattern = re.compile(re.escape(os.path.basename(root)) + r"\.\d+" + re.escape(extension))
    directory = os.path.dirname(path)
    names = sorted(filter(pattern.fullmatch, os.listdir(directory or ".")))
    found = [os.path.join(directory, name) for name in names]
    return [*found[:3], "…"] if len(found) > 3 else found


def _select(recording: Recording, begin: float, end: float | None) -> None:
    """Keep an interval of the recording, in seconds. Raises CommandError if it has no records."""
    from noria.sight.excerpt import SECOND, limits, select

    first, last = limits(recording)
    if first and begin * SECOND > last - first:
        raise CommandError(
            f"{recording.path} has nothing from {begin:g} s on",
            f"its last record is at {(last - first) / SECOND:.6g} s",
        )
    select(
        recording,
        first + round(begin * SECOND),
        UNTIL_THE_END if end is None else first + round(end * SECOND),
    )


def _observe(recording: Recording, loop: int | None) -> Observation:
    """Return the figures of all loops, or of one. Raises CommandError if there are none."""
    from noria.sight.observer import Observer
    from noria.sight.recording import feed_recording

    observer = Observer()
    feed_recording(observer, recording)
    observation = observer.observe()
    if not observation.loops:
        raise CommandError(
            f"{recording.path} has no event loop: the program has run none of noria's, or was "
            "killed at once",
            "noria.run() and 'noria run' create noria's loop",
        )
    if loop is not None:
        known = [each.id for each in observation.loops]
        observation.loops = [each for each in observation.loops if each.id == loop]
        if not observation.loops:
            numbers = ", ".join(map(str, known))
            raise CommandError(f"{recording.path} has no loop {loop}", f"its loops: {numbers}")
    return observation


def _chosen(observation: Observation) -> set[int]:
    return {loop.id for loop in observation.loops}


def _write_page(
    recording: Recording, observation: Observation, findings: list[Finding], path: str
) -> int:
    """Write the page; return its size. Raises OSError, CommandError without jinja2."""
    from noria.sight.report import page
    from noria.sight.report.data import shown_loops
    from noria.sight.report.output_files import write_whole

    timelines = page.timelines_of(recording, shown_loops(observation, findings))
    try:
        document = page.page(observation, findings, timelines, recording.names())
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the page needs {error.name}", "pip install 'noria[cli]', or use --text or --json"
        ) from error
    return write_whole(path, [document])


def _print_text(observation: Observation, findings: list[Finding]) -> None:
    from noria.sight.report.text import render

    shown = render(observation, findings, max(output_width(), 40))
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(shown.encode(encoding, "replace").decode(encoding))


def _wrote(path: str, size: int, *, quiet: bool, findings: int | None = None) -> None:
    """Say what was written; on standard error if standard output has figures."""
    from noria.sight.findings.units import plural
    from noria.sight.findings.units import size as size_text

    more = ""
    if findings is not None:
        more = f"; {plural(findings, 'finding')}" if findings else "; no findings"
    click.echo(f"{path}: {size_text(size)}{more}", err=quiet)


def _note(message: str) -> None:
    click.echo(f"noria: {message}", err=True)
