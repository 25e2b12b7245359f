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
    """One of r, w, x and a; `plus` for both ways, `binary` for bytes."""

    kind: str
    plus: bool
    binary: bool

    @property
    def readable(self) -> bool:
        return self.kind == "r" or self.plus

    @property
    def writable(self) -> bool:
        return self.kind != "r" or self.plus

    @property
    def flags(self) -> int:
        """For open(2)."""
        way = os.O_RDWR if self.plus else os.O_RDONLY if self.kind == "r" else os.O_WRONLY
        return way | FLAGS[self.kind] | os.O_CLOEXEC

    @property
    def name(self) -> str:
        """As the built-in binary files have it: x+ is told as xb+, and w+ reads as rb+."""
        return ("rb+" if self.kind in "rw" else f"{self.kind}b+") if self.plus else f"{self.kind}b"


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
    return Mode(kinds.pop(), "+" in letters, "b" in letters)
