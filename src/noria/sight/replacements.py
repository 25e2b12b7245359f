"""Attributes of classes and modules that are replaced for a while."""

from __future__ import annotations

from typing import Any

_MISSING = object()


class Replacements:
    """Replaces attributes; `undo` restores them."""

    def __init__(self) -> None:
        self._former: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a class or module."""
        self._former.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Restore the attributes; remove those that were inherited before."""
        while self._former:
            owner, name, former = self._former.pop()
            if former is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, former)
