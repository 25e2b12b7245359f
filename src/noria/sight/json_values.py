"""From the JSON of snapshots and recordings to the classes of observation.py.

The JSON may come from a damaged file: a value of another type than its field's is ignored.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from noria.sight.observation import Place

_LIMIT = 1 << 63


def integer(value: Any) -> int:
    """Return an int that fits in 64 bits, else 0."""
    if isinstance(value, (int, float)) and -_LIMIT < value < _LIMIT:
        return int(value)
    return 0


def dictionaries(value: Any) -> list[dict[str, Any]]:
    """Return the objects of an array, without what is none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def place(value: Any) -> Place | None:
    """Return the place of [function, file, line, source]; None if it is none."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    function, file, line, source = [*value, *("", "", 0, "")[len(value) :]][:4]
    return Place(str(function), str(file), integer(line), str(source or ""))


def places(value: Any) -> list[Place]:
    """Return the places of an array."""
    if not isinstance(value, list):
        return []
    return [found for found in map(place, value) if found is not None]


@functools.cache
def _types(cls: type) -> dict[str, str]:
    """Return the annotations of a dataclass's fields."""
    return {each.name: str(each.type) for each in fields(cls)}


def fill(target: Any, values: dict[str, Any], *names: str) -> None:
    """Set the fields *names* (all if there are none) of a dataclass to the values of their type."""
    types = _types(target.__class__)
    for name in names or types:
        if name in values:
            done, value = _converted(values[name], types[name])
            if done:
                setattr(target, name, value)


def _converted(value: Any, kind: str) -> tuple[bool, Any]:
    """Return (whether it fits, the value) for the annotation of a field."""
    if kind == "int":
        return isinstance(value, (int, float)), integer(value)
    if kind == "str":
        return isinstance(value, str), value
    if kind == "bool":
        return isinstance(value, bool), value
    if kind == "float":
        return isinstance(value, (int, float)), value
    if kind in ("Place", "Place | None"):
        found = place(value)
        return found is not None, found
    if kind == "list[Place]":
        return isinstance(value, list), places(value)
    if kind == "list[int]":
        return isinstance(value, list), [integer(each) for each in value or ()]
    if kind == "list[tuple[Place, int]]":
        return isinstance(value, list), _counted(value)
    return False, None


def _counted(value: Any) -> list[tuple[Place, int]]:
    found = []
    for each in value if isinstance(value, list) else ():
        if isinstance(each, (list, tuple)) and len(each) == 2:
            where = place(each[0])
            if where is not None:
                found.append((where, integer(each[1])))
    return found
