"""What a run stores so that the next one can resume an interrupted transfer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from noria.errors import os_error_reason
from noria.state_directory import state_directory


def records_directory() -> Path:
    """Return the directory of all records."""
    return state_directory() / "transfers"


_warned_directories: set[Path] = set()  # in which no record could be written


class ResumeRecord:
    """A small JSON file about one transfer. `key` identifies the transfer."""

    def __init__(self, *key: str) -> None:
        name = hashlib.sha256("\n".join(key).encode("utf-8", "surrogateescape")).hexdigest()
        self.path = records_directory() / f"{name[:40]}.json"
        self.saved = False  # the last `write` succeeded

    def read(self) -> dict[str, Any]:
        """Return what was written; an empty dict if there is nothing, or it is damaged."""
        try:
            values = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return values if isinstance(values, dict) else {}

    def write(self, **values: Any) -> str:
        """Write the values, readable by the user only: an upload's URL is a permission to write.

        Returns "", or a warning if it failed, once for each directory: the transfer itself does
        not need the record.
        """
        self.saved = False
        try:
            self._write(values)
            self.saved = True
        except OSError as error:
            directory = self.path.parent
            if directory in _warned_directories:
                return ""
            _warned_directories.add(directory)
            return (
                f"cannot write to {directory}: {os_error_reason(error)}; "
                "if the transfer is interrupted, it cannot be resumed"
            )
        return ""

    def _write(self, values: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, name = tempfile.mkstemp(dir=self.path.parent)
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(values, file)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise

    def delete(self) -> None:
        with contextlib.suppress(OSError):  # where nothing can be written, there is no file
            self.path.unlink()
