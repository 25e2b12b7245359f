"""Messages of the agent on standard error, from any of its threads."""

from __future__ import annotations

import contextlib
import os


def warn(text: str) -> None:
    """Write "noria: text" to standard error at once; an error of that is ignored.

    Not through sys.stderr: a thread that is blocked may have the lock of its buffer.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"noria: {text}\n".encode("utf-8", "backslashreplace"))
