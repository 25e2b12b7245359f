"""The history of lines typed at the prompt."""

import os

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from noria.state_directory import state_directory


class _LenientFileHistory(FileHistory):
    """A history file that may become unwritable while the prompt runs."""

    def store_string(self, string: str) -> None:
        """Append a line; errors are ignored."""
        try:
            super().store_string(string)
        except OSError:
            return


def open_history() -> History:
    """Return the history in a file that only its owner can read; in memory if that fails."""
    file = state_directory() / "history"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    except OSError:
        return InMemoryHistory()
    return _LenientFileHistory(str(file))
