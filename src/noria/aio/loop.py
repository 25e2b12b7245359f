"""The asyncio event loop on noria's models.

`Core` (compiled) schedules callbacks and watches descriptors. The `...Methods` classes have
asyncio's public methods, one job each. `AsyncioBase` inherits the rest from asyncio's own loop.

A module of methods is imported when one of its methods is first used: programs start faster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from noria import models
from noria._core.aio.scheduler_methods import add_fast_methods
from noria.aio.asyncio_base import ASYNCIO_ATTRIBUTES, AsyncioBase

if TYPE_CHECKING:
    import asyncio

    from noria._core.aio.acceptor import Acceptor
    from noria.aio.connections import ConnectionMethods
    from noria.aio.datagrams import DatagramMethods
    from noria.aio.sendfile import FileSender, SendfileMethods
    from noria.aio.server import ServerMethods
    from noria.aio.sockets import SocketMethods

    class _Methods(
        ConnectionMethods,
        ServerMethods,
        DatagramMethods,
        SendfileMethods,
        SocketMethods,
        AsyncioBase,
    ):
        __slots__ = ()
else:
    _Methods = AsyncioBase

# (module, class) -> the names that the class defines
DEFERRED_METHODS = {
    ("noria.aio.transport_factory", "TransportFactory"): (
        "make_stream_transport",
        "make_tls_transport",
        "make_tls_protocol",
        "make_datagram_transport",
    ),
    ("noria.aio.connections", "ConnectionMethods"): (
        "create_connection",
        "create_unix_connection",
        "connect_accepted_socket",
        "_start_connection",
        "_connect_to_host",
        "_connect",
        "start_tls",
    ),
    ("noria.aio.server", "ServerMethods"): (
        "create_server",
        "create_unix_server",
        "_serve",
        "_bind",
    ),
    ("noria.aio.datagrams", "DatagramMethods"): ("create_datagram_endpoint",),
    ("noria.aio.sendfile", "SendfileMethods"): (
        "file_sender",
        "sendfile",
        "_sendfile_native",
        "_send_chunks",
        "sock_sendfile",
    ),
    ("noria.aio.sockets", "SocketMethods"): (
        "check_socket",
        "wait_readable",
        "wait_writable",
        "_wait_ready",
        "_receive",
        "_send",
        "_attempt",
        "receive_bytes",
        "sock_recv_into",
        "sock_recvfrom",
        "sock_recvfrom_into",
        "send_all",
        "sock_sendto",
        "sock_accept",
        "sock_connect",
        "_connect_socket",
    ),
}


class DeferredMethod:
    """Stands for a method (or property) of the loop until its module is imported.

    The first access, through the loop or its class, imports the module and replaces all stand-ins
    of that module by its functions. A replacement that the program has set is kept.
    """

    __slots__ = ("name", "source")

    def __init__(self, source: tuple[str, str], name: str):
        self.source = source
        self.name = name

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        module, cls = self.source
        found = vars(getattr(importlib.import_module(module), cls))
        for name in DEFERRED_METHODS[self.source]:
            if type(vars(EventLoop).get(name)) is DeferredMethod:
                setattr(EventLoop, name, found[name])
        return found[self.name].__get__(instance, owner)


def make_first_transport(connection: Any) -> asyncio.Transport:
    """Import the transport's class, have the loop use it from now on, and create one."""
    from noria.aio.transports import SocketTransport

    connection.event_loop.transport_class = SocketTransport
    return SocketTransport(connection)


class EventLoop(_Methods):
    """An asyncio event loop on the given model: see noria.new_event_loop."""

    __slots__ = ("_file_sender", "acceptors", *ASYNCIO_ATTRIBUTES)

    def __init__(self, model: str = "auto"):
        chosen = models.make(model)
        try:
            chosen.require("asyncio")
        except BaseException:
            chosen.close()
            raise
        AsyncioBase.__init__(self, chosen)
        self.make_transport = make_first_transport
        if type(self).time is not EventLoop.time:
            self.use_clock(True)
        self.call_at_overridden = type(self).call_at is not EventLoop.call_at
        self.acceptors: set[Acceptor] = set()
        self._file_sender: FileSender | None = None

    @property
    def model_name(self) -> str:
        """The name of the model that the loop runs on."""
        return self.model.name

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} model={self.model.name} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    # Timers follow a replaced `time` method, as test tools that move the clock expect.

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "time":
            self.use_clock(True)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name == "time":
            self.use_clock(type(self).time is not EventLoop.time)

    def close(self) -> None:
        """Close the loop; it cannot be used afterwards. Servers' sockets stay open.

        Raises RuntimeError if the loop is running.
        """
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        for acceptor in list(self.acceptors):
            acceptor.stop()
        self.acceptors.clear()
        AsyncioBase.close(self)


for _source, _names in DEFERRED_METHODS.items():
    for _name in _names:
        setattr(EventLoop, _name, DeferredMethod(_source, _name))

add_fast_methods(EventLoop)
