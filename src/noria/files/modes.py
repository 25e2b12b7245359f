"""What the mode of an open file means, as the built-in open takes it."""

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
    """What a mode comes to; `parsed` makes it, once for each."""

    kind: str  # one of r, w, x and a
    binary: bool
    readable: bool
    writable: bool
    flags: int  # for open(2)
    name: str  # as the built-in binary files have it: x+ is told as xb+, and w+ reads as rb+


def parsed(mode: str) -> Mode:
    """Raises TypeError and ValueError as the built-in does."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    return _parsed(mode)


@lru_cache(64)
def _parsed(mode: str) -> Mode:
    letters = set(mode)
    if letters - set("rwxatb+") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if "t" in letters and "b" in letters:
        raise ValueError("can't have text and binary mode at once")
    kinds = letters & set(FLAGS)
    if len(kinds) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    kind, plus = kinds.pop(), "+" in letters
    way = os.O_RDWR if plus else os.O_RDONLY if kind == "r" else os.O_WRONLY
    return Mode(
        kind,
        binary="b" in letters,
        readable=kind == "r" or plus,
        writable=kind != "r" or plus,
        flags=way | FLAGS[kind] | os.O_CLOEXEC,
        name=("rb+" if kind in "rw" else f"{kind}b+") if plus else f"{kind}b",
    )
