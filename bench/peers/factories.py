"""The benchmarks' event loops by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any


def loop_factory(name: str) -> Callable[[], Any] | None:
    """Return the loop factory of a name; None, asyncio.Runner's default, for "asyncio"."""
    if name == "asyncio":
        return None
    package, _, model = name.partition("-")
    make = importlib.import_module(package).new_event_loop
    return partial(make, model) if model else make
