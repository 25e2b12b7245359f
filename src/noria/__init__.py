"""noria: event-driven I/O for Python.

An event arrives, goes into a queue, is taken out, and the handler registered for it runs; how the
program learns of the event is the *model*, and every model is here.
"""

from noria._version import __version__
from noria.aio import EventLoop, EventLoopPolicy, install, new_event_loop, run
from noria.aio.streams import (
    StreamReader,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)
from noria.errors import ModelLimit, ModelUnavailable, NoriaError, UnknownModel, Unsupported
from noria.models import MODELS, ModelInfo, info
from noria.reactor import READ, WRITE, Reactor
from noria.selector import selector
from noria.servers.serve import ServerInfo, Summary, serve

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
    "info",
    "install",
    "new_event_loop",
    "open_connection",
    "open_unix_connection",
    "run",
    "selector",
    "serve",
    "start_server",
    "start_unix_server",
]
