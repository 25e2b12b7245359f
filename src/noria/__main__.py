"""The ``noria`` command and ``python -m noria``."""

import os
import signal
import sys

EXTRA = ("click", "rich", "prompt_toolkit", "jinja2", "httpx")  # what 'noria[cli]' brings


INTERRUPTED = 130  # what a shell reports of a process that SIGINT ended


def main() -> None:
    """Run the command line and end the process with its exit status.

    Until the command can say how it ends, and after it has ended, Ctrl-C kills the process
    silently; KeyboardInterrupt would show a traceback of an import.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not if the parent has it ignored
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
    """Opens /dev/null in place of closed standard streams.

    Else a socket or a file of the command would get the number, and what a library writes to
    standard error would go into it. `sys.stdin` and its like stay None.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


if __name__ == "__main__":
    main()
