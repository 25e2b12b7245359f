"""What one run leaves for the next: where an interrupted transfer stands."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def directory() -> Path:
    """Where programs keep their state (XDG Base Directory Specification), and noria's part of it.

    A relative path in XDG_STATE_HOME counts as none, as the specification wants.
    """
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):
        # Not Path.home(), which raises RuntimeError for a user who has none.
        home = os.path.join(os.path.expanduser("~"), ".local", "state")
    base = Path("/", home)
    return base / "noria" / "transfers"


_told: set[Path] = set()  # directories of which it was said that nothing can be kept there


class Note:
    """A small JSON file that tells of one transfer, named by what makes that transfer itself."""

    def __init__(self, *what: str) -> None:
        name = hashlib.sha256("\n".join(what).encode("utf-8", "surrogateescape")).hexdigest()
        self.path = directory() / f"{name[:40]}.json"
        self.kept = False  # the last `write` succeeded

    def read(self) -> dict[str, Any]:
        """What was written, or nothing if it was not or cannot be understood."""
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, **what: Any) -> str:
        """Writes it whole, readable by its user alone: an upload's URL lets others write to it.

        Returns "", or what to warn of if that cannot be, the first time for each directory: the
        transfer itself does not need it.
        """
        self.kept = False
        try:
            self._write(what)
            self.kept = True
        except OSError as error:
            place = self.path.parent
            if place in _told:
                return ""
            _told.add(place)
            words = (error.strerror or str(error)).lower()
            return f"{place}: {words}; if it is interrupted, the next run begins anew"
        return ""

    def _write(self, what: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, name = tempfile.mkstemp(dir=self.path.parent)
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(what, file)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise

    def forget(self) -> None:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing was
            self.path.unlink()
