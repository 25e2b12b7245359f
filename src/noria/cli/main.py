"""The ``noria`` command: its help, its sub-commands, and how any of them ends."""

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from noria._version import __version__
from noria.cli.compare.command import compare
from noria.cli.connect.command import connect
from noria.cli.errors import explain
from noria.cli.models.command import models
from noria.cli.serve.command import serve
from noria.cli.transfer.get import get
from noria.cli.transfer.put import put
from noria.errors import NoriaError

INTERRUPTED = 130  # what a shell reports of a process that SIGINT ended


class InOrder(click.Group):
    """A group whose commands are listed as they were added, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a newcomer would use them."""
        return list(self.commands)


@click.group(
    cls=InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  noria models                         what this machine can do
  noria models epoll                   one model explained, with a drawing
  noria serve echo --model epoll -v    an echo server on 127.0.0.1:9001
  noria serve files ~/public           a directory over HTTP, on 127.0.0.1:8000
  noria connect 127.0.0.1 9001         talk to it, line by line
  noria compare --quick                every model measured, in a minute
  noria compare files                  a file's way to the device, step by step
  noria get http://HOST:PORT/big.iso   fetch a file, or the rest of it
  noria put big.iso http://HOST:PORT/  send a file, or the rest of it

\b
'noria COMMAND --help' says more about each.""",
)
@click.version_option(__version__, prog_name="noria", message="%(prog)s %(version)s")
def noria() -> None:
    """Event-driven I/O for Python.

    A noria is a water wheel that the stream itself turns. This one turns when something arrives,
    and not before: eight ways of asking the kernel for I/O (the models: blocking, threaded,
    nonblocking, select, poll, epoll, epoll-edge, io_uring) behind one contract. These commands
    run the same server on any of them, talk to it, and measure what differs.
    """


for command in (serve, connect, models, compare, get, put):
    noria.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1 failure, 2 wrong use, 130 Ctrl-C."""
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
        return INTERRUPTED
    except BrokenPipeError:
        _close_stdout()
        return 1
    except (NoriaError, OSError) as error:
        problem = explain(error)
        with contextlib.suppress(OSError):  # the terminal may be gone, which is the problem then
            problem.show()
        return problem.exit_code
    return status if isinstance(status, int) else 0


def _close_stdout() -> None:
    """Nobody reads it any more: keep the interpreter from complaining when it flushes at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
