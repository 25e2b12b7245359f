"""Lines of the program's source, where its files are on this machine."""

from __future__ import annotations

import inspect
import linecache
import tokenize
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


def only_await(coroutine: Place) -> Place:
    """Return the one line of a coroutine function with an `await`, given its first line.

    The place itself if there are several, or if the source is not there.
    """
    lines = linecache.getlines(coroutine.file)[max(coroutine.line - 1, 0) :]
    try:
        block = inspect.getblock(lines)
    except (SyntaxError, tokenize.TokenError):  # the file is another one now
        return coroutine
    found = [
        replace(coroutine, line=coroutine.line + number, source=line.strip())
        for number, line in enumerate(block)
        if "await " in line.partition("#")[0]
    ]
    return found[0] if len(found) == 1 else coroutine
