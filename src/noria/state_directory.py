"""Where noria's commands keep state between runs (XDG Base Directory Specification)."""

import os
from pathlib import Path


def state_directory() -> Path:
    """Return ``$XDG_STATE_HOME/noria``, or ``~/.local/state/noria`` if that is not set.

    A relative path in XDG_STATE_HOME is ignored, as the specification demands.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):
        # Not Path.home(), which raises RuntimeError for a user without a home directory.
        base = os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path("/", base, "noria")
