"""Compares the private names of asyncio that noria uses with the running Python.

asyncio has no public interface for some of what noria replaces: the TLS protocol's record layer,
the fields of the stream classes. `asyncio_names_table.NAMES` lists each such name. Python may
rename it or change its arguments in any release; `unknown` returns one sentence for each
difference. If a name of theirs is unknown, `noria.aio.tls` and `noria.aio.streams` use asyncio's
own classes in place of noria's compiled ones.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from noria.aio.asyncio_names_table import (
    FIELD,
    HOOK,
    NAMES,
    OVERRIDDEN,
    PROVIDED,
    SLOT,
    PrivateName,
)

NEWEST_TESTED = (3, 15)


def parameters(function: Any) -> tuple[str, ...] | None:
    """Names of the parameters of a function or class; None if it is not written in Python."""
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    return tuple(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _required(function: Any) -> int:
    """Number of parameters without a default."""
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    count: int = function.__code__.co_argcount - len(function.__defaults__ or ())
    count += function.__code__.co_kwonlyargcount - len(function.__kwdefaults__ or ())
    return count


def _has_field(owner: Any, name: str) -> bool:
    """Whether instances of the class have the attribute: a method of the class uses the name."""
    if hasattr(owner, name):
        return True
    for cls in owner.__mro__:
        for value in vars(cls).values():
            code = getattr(value, "__code__", None)
            if code is not None and name in code.co_names:
                return True
    return False


def _foreign(owner: Any) -> set[str]:
    """Private names that the methods of a class use and that its instances do not have."""
    used: set[str] = set()
    for value in vars(owner).values():
        code = getattr(value, "__code__", None)
        if code is not None:
            used.update(name for name in code.co_names if name.startswith("_"))
    return used.difference(dir(owner), owner.__init__.__code__.co_names)


def _find(path: str) -> Any:
    """Import the module or class with this dotted path; None if it does not exist."""
    parts = path.split(".")
    try:
        found: Any = importlib.import_module(parts[0])
    except ImportError:
        return None
    for position, part in enumerate(parts[1:], 1):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[: position + 1]))
            except ImportError:
                return None
        found = getattr(found, part, None)
    return found


def _difference(entry: PrivateName, version: str) -> str | None:
    """A sentence that says how the name differs on this Python; None if it does not."""
    owner = _find(entry.owner)
    path = f"{entry.owner}.{entry.name}"
    if entry.kind == SLOT:
        return None
    if owner is None:
        return f"{entry.owner} does not exist on Python {version}: noria uses its {entry.name}"
    if entry.kind == FIELD:
        if _has_field(owner, entry.name):
            return None
        return f"{entry.owner} objects have no {entry.name} on Python {version}"
    if entry.kind == PROVIDED:
        more = _foreign(owner).difference(entry.body)
        if not more:
            return None
        return (
            f"{entry.owner} uses {', '.join(sorted(more))} on Python {version}, perhaps of "
            "transports: noria's have no such attribute"
        )
    value = getattr(owner, entry.name, None)
    if value is None:
        return f"{path} does not exist on Python {version}"
    if entry.parameters is None:
        return None
    there = parameters(value)
    if there is None:
        return None
    expected = entry.parameters
    if entry.kind == OVERRIDDEN:
        fits = there == expected
    elif entry.kind == HOOK:
        fits = there == expected[: len(there)]
    else:
        fits = there[: len(expected)] == expected and _required(value) <= len(expected)
    if not fits:
        return (
            f"{path}({', '.join(there)}) takes other arguments on Python {version}: "
            f"noria expects ({', '.join(expected)})"
        )
    more = set(value.__code__.co_names).difference(entry.body) if entry.body else set()
    if more:
        return (
            f"{path} differs on Python {version} from the one that noria replaces: "
            f"it uses {', '.join(sorted(more))}"
        )
    return None


def unknown(*modules: str) -> list[str]:
    """Compare the table with the running Python and return a sentence for each difference.

    With `modules` (names of noria's modules), only the names that these modules use.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    sentences = []
    for entry in NAMES:
        if modules and not set(modules).intersection(entry.used_by.split(", ")):
            continue
        if sys.version_info < entry.first or (
            entry.last is not None and sys.version_info[:2] > entry.last
        ):
            continue
        try:
            sentence = _difference(entry, version)
        except Exception as error:
            # The name may refer to a different kind of object.
            path = f"{entry.owner}.{entry.name}"
            sentence = f"{path} cannot be compared on Python {version}: {error!r}"
        if sentence is not None and sentence not in sentences:
            sentences.append(sentence)
    return sentences


_warned: set[str] = set()


def warn(sentences: list[str], stacklevel: int = 2) -> None:
    """Issue one RuntimeWarning with those of the sentences that were not reported before."""
    new = [sentence for sentence in sentences if sentence not in _warned]
    if not new:
        return
    _warned.update(new)
    warnings.warn(
        "this Python's asyncio differs from those that noria was tested with "
        f"(up to Python {'.'.join(map(str, NEWEST_TESTED))}): {'; '.join(new)}",
        RuntimeWarning,
        stacklevel + 1,
    )
