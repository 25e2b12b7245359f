"""The ``noria`` command: its sub-commands, its help, and its exit status."""

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from noria._version import __version__
from noria.cli.compare.command import compare
from noria.cli.connect.command import connect
from noria.cli.errors import INTERRUPTED_STATUS, command_error
from noria.cli.events.command import events
from noria.cli.models.command import models
from noria.cli.report.command import report
from noria.cli.run.command import run as run_program
from noria.cli.serve.command import serve
from noria.cli.subcommand import OrderedGroup
from noria.cli.top.command import top
from noria.cli.transfer.get import get
from noria.cli.transfer.put import put
from noria.cli.work.command import work
from noria.errors import NoriaError


@click.group(
    cls=OrderedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  noria models                         list the models that work on this machine
  noria models epoll                   explain one model, with a drawing
  noria serve echo --model epoll -v    run an echo server on 127.0.0.1:9001
  noria serve files ~/public           serve a directory at http://127.0.0.1:8000/
  noria connect 127.0.0.1 9001         send lines to a server and show its replies
  noria run app.py                     run an asyncio program on noria's loop, watched
  noria work app:bus --workers 4       handle the events of a bus in 4 processes
  noria events tail redis://127.0.0.1  show the events of a broker, live
  noria top                            show what a running process's loop is doing
  noria report run.noria --open        show what a recorded program's loop did
  noria compare --quick                measure every model, in a minute
  noria compare loops --quick          measure asyncio programs on every event loop
  noria compare files                  measure a file's path to the device
  noria get http://HOST:PORT/big.iso   download a file, or resume its download
  noria put big.iso http://HOST:PORT/  upload a file, or resume its upload

\b
Run 'noria COMMAND --help' for the options of a command.""",
)
@click.version_option(__version__, prog_name="noria", message="%(prog)s %(version)s")
def noria() -> None:
    """Event-driven I/O for Python.

    noria has eight I/O models (blocking, threaded, nonblocking, select, poll, epoll, epoll-edge,
    io_uring) behind one interface. These commands run the same server on any of them, connect to
    it, measure how the models differ, serve and transfer files, and handle events of a broker.
    """


for command in (serve, connect, run_program, work, events, top, report, models, compare, get, put):
    noria.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns the exit status: 0, 1 (failure), 2 (wrong use), 130 (Ctrl-C).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not UTF-8 must not be an error
            stream.reconfigure(errors="backslashreplace")
    try:
        status = noria.main(arguments, prog_name="noria", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        _discard_stdout()
        return 1
    except (NoriaError, OSError) as error:
        shown = command_error(error)
        with contextlib.suppress(OSError):  # standard error may be the file that failed
            shown.show()
        return shown.exit_code
    return status if isinstance(status, int) else 0


def _discard_stdout() -> None:
    """Send standard output to /dev/null, so that the flush at exit does not fail."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, 1)
    os.close(fd)
