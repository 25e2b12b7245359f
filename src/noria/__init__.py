"""noria: event-driven I/O for Python.

An event arrives, goes into a queue, is taken out, and the handler registered for it runs; how the
program learns of the event is the *model*, and every model is here.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from noria._version import __version__

# Checked first, as an import of anything else would fail with less to say.
if sys.platform != "linux":
    raise ImportError(
        f"noria needs Linux, whose system calls it is built on (epoll, io_uring), and this is "
        f"{sys.platform}: use a Linux container or virtual machine, on Windows also WSL",
        name=__name__,
    )
if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
    raise ImportError(
        f"noria needs CPython 3.11 or newer, and this is {sys.implementation.name} "
        f"{'.'.join(map(str, sys.version_info[:2]))}: install and run it with another Python",
        name=__name__,
    )

if TYPE_CHECKING:
    from noria import aiofiles, os, path
    from noria.aio.loop import EventLoop
    from noria.aio.run import EventLoopPolicy, install, new_event_loop, run
    from noria.aio.streams import (
        StreamReader,
        StreamWriter,
        open_connection,
        open_unix_connection,
        start_server,
        start_unix_server,
    )
    from noria.errors import ModelLimit, ModelUnavailable, NoriaError, UnknownModel, Unsupported
    from noria.files.opening import open
    from noria.models import MODELS, ModelInfo, info
    from noria.reactor import READ, WRITE, Reactor
    from noria.selectors import selector
    from noria.servers.serve import ServerInfo, Summary, serve

# Who needs one of these need not wait for the import of the others. Where each is:
_MODULES = {
    "noria.aio.loop": ("EventLoop",),
    "noria.aio.run": ("EventLoopPolicy", "install", "new_event_loop", "run"),
    "noria.aio.streams": (
        "StreamReader",
        "StreamWriter",
        "open_connection",
        "open_unix_connection",
        "start_server",
        "start_unix_server",
    ),
    "noria.errors": (
        "ModelLimit",
        "ModelUnavailable",
        "NoriaError",
        "UnknownModel",
        "Unsupported",
    ),
    "noria.files.opening": ("open",),
    "noria.models": ("MODELS", "ModelInfo", "info"),
    "noria.reactor": ("READ", "WRITE", "Reactor"),
    "noria.selectors": ("selector",),
    "noria.servers.serve": ("ServerInfo", "Summary", "serve"),
}
_SUBMODULES = ("aiofiles", "os", "path")
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "MODELS",
    "READ",
    "WRITE",
    "EventLoop",
    "EventLoopPolicy",
    "ModelInfo",
    "ModelLimit",
    "ModelUnavailable",
    "NoriaError",
    "Reactor",
    "ServerInfo",
    "StreamReader",
    "StreamWriter",
    "Summary",
    "UnknownModel",
    "Unsupported",
    "__version__",
    "aiofiles",
    "info",
    "install",
    "new_event_loop",
    "open",
    "open_connection",
    "open_unix_connection",
    "os",
    "path",
    "run",
    "selector",
    "serve",
    "start_server",
    "start_unix_server",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    module = _HOMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
