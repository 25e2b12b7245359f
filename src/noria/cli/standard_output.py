"""Standard output: how wide it is, and whether it can show Unicode."""

import shutil
import sys

PIPE_WIDTH = 120  # characters, where no terminal has a width


def output_width() -> int:
    """Return the width of the terminal, or $COLUMNS, in characters."""
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns


def is_utf8() -> bool:
    """Return whether standard output is encoded in UTF-8."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
