"""The limit of open files, which servers and loads raise. Imports the standard library only."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit (RLIMIT_NOFILE, getrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
