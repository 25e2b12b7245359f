"""What the measured programs share: the loop by its name, the core, errors in one line."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any


def loop_factory(name: str) -> Callable[[], Any] | None:
    """Return the loop factory of "uvloop", "noria-epoll" and so on; None for "asyncio"."""
    if name == "asyncio":
        return None
    package, _, model = name.partition("-")
    make = importlib.import_module(package).new_event_loop
    return partial(make, model) if model else make


def pin(cores: str) -> None:
    """Run on these cores only ("0" or "0,1"); on any for an empty string."""
    if cores:
        os.sched_setaffinity(0, set(map(int, cores.split(","))))


def reason(error: BaseException) -> str:
    """Return an error in one line."""
    if isinstance(error, NotImplementedError) and not str(error):
        return "not implemented by the loop"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if package != "noria":
            return f"not installed: pip install {package}"
    text = str(error) or (error.__doc__ or "").partition("\n")[0]
    name = type(error).__name__
    return text if isinstance(error, OSError) and text else f"{name}: {text}".rstrip(": ")
