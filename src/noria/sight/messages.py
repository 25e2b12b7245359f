"""Messages of the agent on standard error, from any of its threads."""

from __future__ import annotations

import contextlib
import os


def write(text: str) -> None:
    """Write text and a newline to standard error at once; an error of that is ignored.

    Not through sys.stderr: a thread that is blocked may have the lock of its buffer.
    """
    with contextlib.suppress(OSError):  # closed, or a pipe without a reader
        os.write(2, (text + "\n").encode("utf-8", "backslashreplace"))


def warn(text: str) -> None:
    """Write "noria: text" as `write` does."""
    write(f"noria: {text}")
