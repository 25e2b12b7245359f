"""What the measured programs share: the loop by its name, the core, the end with the parent."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2)


def loop_factory(name: str) -> Callable[[], Any] | None:
    """Return the loop factory of "uvloop", "noria-epoll" and so on; None for "asyncio"."""
    if name == "asyncio":
        return None
    package, _, model = name.partition("-")
    make = importlib.import_module(package).new_event_loop
    return partial(make, model) if model else make


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, even while it is stopped."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def pin(cores: str) -> None:
    """Run on these cores only ("0" or "0,1"); on any for an empty string."""
    if cores:
        os.sched_setaffinity(0, set(map(int, cores.split(","))))


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit (RLIMIT_NOFILE, getrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
