"""What one run leaves for the next: where an interrupted transfer stands."""

from __future__ import annotations

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
    base = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "state"
    return base / "noria" / "transfers"


class Note:
    """A small JSON file that tells of one transfer, named by what makes that transfer itself."""

    def __init__(self, *what: str) -> None:
        name = hashlib.sha256("\n".join(what).encode("utf-8", "surrogateescape")).hexdigest()
        self.path = directory() / f"{name[:40]}.json"

    def read(self) -> dict[str, Any]:
        """What was written, or nothing if it was not or cannot be understood."""
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, **what: Any) -> None:
        """Writes it whole, readable by its user alone: an upload's URL lets others write to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd, name = tempfile.mkstemp(dir=self.path.parent)
        with os.fdopen(fd, "w") as file:
            json.dump(what, file)
        os.replace(name, self.path)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
