"""The event loops that can be compared: which are installed, and how the others are."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable
from dataclasses import dataclass

from noria import __version__, models

PEERS = ("asyncio", "uvloop", "rloop", "blazio")
ASYNCIO_MODELS = ("select", "poll", "epoll", "epoll-edge", "io_uring")
NORIA = tuple(f"noria-{model}" for model in ASYNCIO_MODELS)
KNOWN = (*PEERS, *NORIA)


@dataclass(frozen=True)
class Loop:
    """One loop: its name, version, and why it cannot be measured here ("" if it can)."""

    name: str
    version: str
    reason: str = ""
    install: str = ""
    """The command that installs it, if it is not installed."""


def describe(name: str) -> Loop:
    """Return what is known about a loop of KNOWN without running it."""
    package, _, model = name.partition("-")
    if package == "noria":
        works, reason = models.availability(model)
        return Loop(name, __version__, "" if works else reason)
    if name == "asyncio":
        return Loop(name, platform.python_version())
    if importlib.util.find_spec(package) is None:
        return Loop(name, "", "not installed", f"pip install {package}")
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return Loop(name, version)


def select(patterns: Iterable[str]) -> list[str]:
    """Return the loops of KNOWN that match one of the patterns (fnmatch), in the order given.

    Raises ValueError for a pattern that matches none; the message lists the names.
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(KNOWN, pattern)
        if not matching:
            raise ValueError(f"no loop matches {pattern!r}. Choose from: {', '.join(KNOWN)}.")
        chosen |= dict.fromkeys(matching)
    return list(chosen)
