"""The lines typed before, kept for the next time."""

import os
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory


def path() -> Path:
    """``$XDG_STATE_HOME/noria/history``, below ``~/.local/state`` when that is not set."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "noria" / "history"


class _Kept(FileHistory):
    """A history file that may become unwritable: typing must go on."""

    def store_string(self, string: str) -> None:
        """Append a line if that is still possible."""
        try:
            super().store_string(string)
        except OSError:
            return


def history() -> History:
    """The history file, readable by its owner alone; memory where there can be no file."""
    try:
        file = path()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return InMemoryHistory()
    return _Kept(str(file))
