"""The mode argument of the built-in open, parsed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

FLAGS = {
    "r": 0,
    "w": os.O_CREAT | os.O_TRUNC,
    "x": os.O_CREAT | os.O_EXCL,
    "a": os.O_CREAT | os.O_APPEND,
}


@dataclass(frozen=True, slots=True)
class Mode:
    """A parsed mode; see `parse_mode`."""

    kind: str  # r, w, x or a
    binary: bool
    readable: bool
    writable: bool
    flags: int  # for open(2)
    name: str  # `mode` of the built-in binary file: xb+ for x+, and rb+ for w+


def parse_mode(mode: str) -> Mode:
    """Parse a mode. Raises TypeError and ValueError as the built-in open does."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    return _parse_mode(mode)


@lru_cache(64)
def _parse_mode(mode: str) -> Mode:
    letters = set(mode)
    if letters - set("rwxatb+") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if "t" in letters and "b" in letters:
        raise ValueError("can't have text and binary mode at once")
    kinds = letters & set(FLAGS)
    if len(kinds) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    kind, plus = kinds.pop(), "+" in letters
    access = os.O_RDWR if plus else os.O_RDONLY if kind == "r" else os.O_WRONLY
    return Mode(
        kind,
        binary="b" in letters,
        readable=kind == "r" or plus,
        writable=kind != "r" or plus,
        flags=access | FLAGS[kind] | os.O_CLOEXEC,
        name=("rb+" if kind in "rw" else f"{kind}b+") if plus else f"{kind}b",
    )
