"""Which places are the program's own, and not a library's or the interpreter's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from noria.sight.observation import Place

# By pattern, as a recording may come from another machine.
_STANDARD = re.compile(r"/lib(64)?/python3\.\d+t?/(?!(site|dist)-packages/)|^<frozen |^$")
_NORIA = re.compile(r"(^|/)((site|dist)-packages|src)/noria/|(^|/)noria/.*\.pyx$")
_COMPREHENSION = re.compile(r"(\.<locals>)?\.<(genexpr|listcomp|setcomp|dictcomp)>.*")
_PACKAGES = re.compile(r"/(site|dist)-packages/")


def is_standard(place: Place) -> bool:
    """Whether the place is in the standard library."""
    return bool(_STANDARD.search(place.file))


def is_noria(place: Place) -> bool:
    """Whether the place is in noria."""
    return bool(_NORIA.search(place.file))


def is_program(place: Place) -> bool:
    """Whether the place is in the program: no installed package, not the standard library."""
    return not (is_standard(place) or is_noria(place) or _PACKAGES.search(place.file))


def innermost(stack: Sequence[Place]) -> Place | None:
    """Return the innermost place of the program, else of a package, else the innermost."""
    for test in (is_program, lambda place: not (is_standard(place) or is_noria(place))):
        for place in reversed(stack):
            if test(place):
                return place
    return stack[-1] if stack else None


def is_import(stack: Iterable[Place]) -> bool:
    """Whether the stack is inside an import statement."""
    return any(
        place.file.startswith("<frozen importlib") and place.function.startswith("_find_and_load")
        for place in stack
    )


def is_thread_start(stack: Iterable[Place]) -> bool:
    """Whether the stack is inside threading.Thread.start."""
    return any(place.function == "Thread.start" and is_standard(place) for place in stack)


def function(place: Place) -> tuple[str, str]:
    """Return (file, function); of a comprehension the function that it is written in."""
    return (place.file, _COMPREHENSION.sub("", place.function))


def key(place: Place | None) -> tuple[str, str, int]:
    """Return what identifies a place."""
    return (place.function, place.file, place.line) if place else ("", "", 0)
