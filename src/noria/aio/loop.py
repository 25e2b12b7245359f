"""The asyncio event loop on noria's models.

`Core` (compiled) schedules callbacks and watches descriptors. The `...Methods` classes have
asyncio's public methods, one job each. `AsyncioBase` inherits the rest from asyncio's own loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noria import models
from noria._core.aio.scheduler import add_fast_methods
from noria.aio.asyncio_base import ASYNCIO_ATTRIBUTES, AsyncioBase
from noria.aio.connections import ConnectionMethods
from noria.aio.datagrams import DatagramMethods
from noria.aio.sendfile import FileSender, SendfileMethods
from noria.aio.server import ServerMethods
from noria.aio.sockets import SocketMethods
from noria.aio.transport_factory import make_first_transport

if TYPE_CHECKING:
    from noria._core.aio.acceptor import Acceptor


class EventLoop(
    ConnectionMethods,
    ServerMethods,
    DatagramMethods,
    SendfileMethods,
    SocketMethods,
    AsyncioBase,
):
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


add_fast_methods(EventLoop)
