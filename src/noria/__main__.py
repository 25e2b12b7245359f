"""The ``noria`` command and ``python -m noria``."""

import os
import signal
import sys

# Packages that 'noria[cli]' installs.
EXTRA = ("click", "rich", "prompt_toolkit", "jinja2", "httpx")

INTERRUPTED = 130  # the exit status that a shell reports for a process that SIGINT has ended


def main() -> None:
    """Run the command line, and exit with its status.

    Before the command has started and after it has ended, Ctrl-C ends the process silently:
    KeyboardInterrupt would print a traceback of an import.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # it is SIG_IGN if the parent ignores SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    reserve_standard_descriptors()
    try:
        from noria.cli.main import run

        signal.signal(signal.SIGINT, handler)
        status = run()
        if handler is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print("the noria commands need: pip install 'noria[cli]'", file=sys.stderr)
        status = 1
    except ImportError as error:  # noria._core explains why it cannot be imported
        if not (error.name or "").startswith("noria._core"):
            raise
        print(f"noria: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def reserve_standard_descriptors() -> None:
    """Open /dev/null in place of closed standard streams; sys.stdin and the others stay None.

    Otherwise a socket or a file of the command would get the descriptor number, and the output of a
    library to standard error would be written to it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `fd`


if __name__ == "__main__":
    main()
