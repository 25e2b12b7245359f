"""The exceptions that no handler or task caught, grouped by type and place."""

from __future__ import annotations

import threading
import time
from typing import Any

from noria.sight.places import PlaceTuple

MAX_KINDS = 200  # different ones; later ones are dropped


class ErrorsSeen:
    """The errors of a loop. Any thread may call its methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str, str, int], dict[str, Any]] = {}

    def add(self, kind: str, type_name: str, message: str, place: PlaceTuple) -> None:
        """Count an error of a type at a place."""
        key = kind, type_name, place[1], place[2]
        with self._lock:
            record = self._records.get(key)
            if record is None:
                if len(self._records) >= MAX_KINDS:
                    return
                record = self._records[key] = {
                    "kind": kind,
                    "type": type_name,
                    "message": message[:500],
                    "place": place,
                    "count": 0,
                    "last": 0,
                }
            record["count"] += 1
            record["last"] = time.monotonic_ns()

    def records(self) -> list[dict[str, Any]]:
        """Return the errors, with the field names of ErrorFigures."""
        with self._lock:
            return [dict(record) for record in self._records.values()]
