"""noria: event-driven I/O for Python.

An event goes into a queue, and a handler that is registered for it runs. The *model* is the way in
which the program learns of events: select, poll, epoll, io_uring and others, all behind one API.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from noria._version import __version__

# Checked first: other imports would fail with a less helpful message.
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
    from noria.bus.bus import Bus
    from noria.bus.event import Event
    from noria.errors import ModelLimit, ModelUnavailable, NoriaError, UnknownModel, Unsupported
    from noria.files.opening import open
    from noria.models import MODELS, ModelInfo, info
    from noria.reactor import READ, WRITE, Reactor
    from noria.selectors import selector
    from noria.servers.serve import ServerInfo, Summary, serve
    from noria.sight.watch import mark, record, watch

# The public names by module; a module is imported when one of its names is first used.
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
    "noria.bus.bus": ("Bus",),
    "noria.bus.event": ("Event",),
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
    "noria.sight.watch": ("mark", "record", "watch"),
}
_SUBMODULES = ("aiofiles", "os", "path")
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "MODELS",
    "READ",
    "WRITE",
    "Bus",
    "Event",
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
    "mark",
    "new_event_loop",
    "open",
    "open_connection",
    "open_unix_connection",
    "os",
    "path",
    "record",
    "run",
    "selector",
    "serve",
    "start_server",
    "start_unix_server",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
