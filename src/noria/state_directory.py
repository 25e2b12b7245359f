"""Where noria's commands keep state between runs (XDG Base Directory Specification)."""

import os
from pathlib import Path


def state_directory() -> Path:
    """Return ``$XDG_STATE_HOME/noria``, or ``~/.local/state/noria`` if that is not set.

    A relative path in XDG_STATE_HOME is ignored, as the specification demands. For a user without
    a home directory it is a path at which nothing can be created, not even by root.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")  # unchanged if there is no home directory
        base = os.path.join(home if os.path.isabs(home) else os.devnull, ".local", "state")
    return Path(base, "noria")
