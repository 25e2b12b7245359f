"""Lines of the program's source, where its files are on this machine."""

from __future__ import annotations

import linecache
from dataclasses import replace

from noria.sight.observation import Place

_FARTHEST = 5  # lines


def nearest_await(place: Place) -> Place:
    """Return the line next to a place that has an `await`: where a running loop suspends.

    The place itself if it has one, or if the source is not there.
    """
    if "await " in place.source or not place.file:
        return place
    for distance in range(1, _FARTHEST + 1):
        for line in (place.line + distance, place.line - distance):
            source = linecache.getline(place.file, line) if line > 0 else ""
            if "await " in source.partition("#")[0]:
                return replace(place, line=line, source=source.strip())
    return place
