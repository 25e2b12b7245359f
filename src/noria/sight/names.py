"""The names of the ids in records: code, types and strings that a recorder has interned."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable, Sequence
from typing import Any

from noria.errors import RecordingError
from noria.sight.observation import Place

IO_OF_THE_LOOP = Place("I/O of the loop")  # of channels without a protocol, such as listeners


class Names:
    """The names of one loop's recorder."""

    def __init__(self) -> None:
        self.count = 0  # names so far: the argument of the next names_after
        self._names: dict[int, tuple[str, str, str, int]] = {}
        self._places: dict[tuple[int, int], Place] = {}

    def add(self, names: Iterable[Sequence[Any]]) -> None:
        """Add [id, kind, qualified name, file, line] of each. Raises RecordingError."""
        for each in names:
            try:
                number, kind, name, file, line = each
                self._names[int(number)] = (str(kind), str(name), str(file), int(line))
            except (TypeError, ValueError, OverflowError):
                raise RecordingError(f"not a name of a recording: {each!r:.200}") from None
            self.count += 1
            self._places.clear()

    def text(self, number: int) -> str:
        """Return a name alone: a string, a type or a qualified name; "" if it is unknown."""
        found = self._names.get(number)
        return found[1] if found is not None else ""

    def place(self, number: int, line: int = 0) -> Place:
        """Return the place of some code; with *line*, that line of it.

        A line has its source if the file can be read here. Places are shared: do not change them.
        """
        place = self._places.get((number, line))
        if place is None:
            found = self._names.get(number)
            if found is None:
                place = Place(f"unknown {number:#x}" if number else "")
            else:
                _, name, file, first = found
                place = Place(name, file, line or first, _source(file, line) if line else "")
            self._places[number, line] = place
        return place

    def handler(self, kind: str, number: int) -> Place:
        """Return the place of a handler's code, given its kind as in CodeFigures."""
        return IO_OF_THE_LOOP if kind == "protocol" and not number else self.place(number)


def _source(file: str, line: int) -> str:
    """Return a line of a file; "" if there is no such file here."""
    # A recording may name any file, also a pipe, which would block.
    if "\0" in file or not os.path.isfile(file):
        return ""
    return linecache.getline(file, line).strip()
