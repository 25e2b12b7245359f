"""Transports: subclasses of asyncio's classes that delegate to a compiled channel.

asyncio's transport classes have a layout of their own, so no extension type can inherit from them.
The methods of SocketTransport that run for each message or connection are compiled functions
(`noria._core.aio.transport_methods`). DatagramTransport has slots that hold the channel's bound
method, and are filled at their first use.
"""

from __future__ import annotations

import asyncio
import warnings
from asyncio import constants
from typing import Any

from noria._core.aio.transport_methods import install


class _TransportBase:
    """The methods that both kinds of transport delegate to their channel."""

    __slots__ = ()
    _connection: Any

    @property
    def _extra(self) -> Any:
        # asyncio.BaseTransport.get_extra_info calls `get` of this object. The method is not
        # overridden here, so that a replacement on asyncio.BaseTransport affects these transports.
        return self._connection

    @property
    def _sock(self) -> Any:
        # For programs that read asyncio's private attribute. There is no setter: the channel does
        # not use the socket object to transfer data.
        sock = self._connection.get_extra_info("socket")
        return None if sock is None else sock._sock

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol whose methods are called."""
        self._connection.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol whose methods are called."""
        protocol: asyncio.BaseProtocol = self._connection.get_protocol()
        return protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the sizes of the write buffer, in bytes, that cause calls of the flow control.

        pause_writing is called above `high`, resume_writing at `low` or below. Raises ValueError.
        """
        self._connection.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high): the limits of the write buffer, in bytes."""
        limits: tuple[int, int] = self._connection.get_write_buffer_limits()
        return limits

    def get_write_buffer_size(self) -> int:
        """The number of bytes in the write buffer."""
        return int(self._connection.get_write_buffer_size())


class SocketTransport(_TransportBase, asyncio.Transport):
    """A connected stream socket, TCP or Unix."""

    # Programs may set attributes, as on asyncio's transports: the dict is made when first needed.
    __slots__ = ("__dict__", "__weakref__", "_connection")

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __init__(self, connection: Any):
        self._connection = connection

    def __repr__(self) -> str:
        connection = self._connection
        state = []
        if connection.fileno() < 0 or connection.connection_lost_called:
            state.append("closed")
        elif connection.is_closing():
            state.append("closing")
        state.append(f"fd={connection.fileno()}")
        state.append("read=polling" if connection.is_reading() else "read=idle")
        size = connection.get_write_buffer_size()
        state.append(f"write=<{'polling' if size else 'idle'}, bufsize={size}>")
        # Not type(self): finalizers call this after the interpreter has cleared the builtins.
        return f"<{self.__class__.__name__} {' '.join(state)}>"

    # Private names that asyncio's code reads.

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self._connection.event_loop
        return loop

    @property
    def _paused(self) -> bool:
        return bool(self._connection.reading_paused)

    @property
    def _closing(self) -> bool:
        return bool(self._connection.is_closing())

    @property
    def _protocol_paused(self) -> bool:
        return bool(self._connection.writing_paused)

    def is_reading(self) -> bool:
        """Whether data_received may be called."""
        return bool(self._connection.is_reading())

    def detach_reading(self) -> bool:
        """Pause reading, so that other code may receive from the descriptor.

        That ends with resume_reading. Return False, and change nothing, if the model may have
        received bytes that were not delivered yet.
        """
        return bool(self._connection.detach_reading())

    def write_eof(self) -> None:
        """Shut down the sending side after the write buffer is sent; receiving continues."""
        self._connection.write_eof()

    def can_write_eof(self) -> bool:
        """Return True: a stream socket has a sending side to shut down."""
        return True

    def _force_close(self, error: BaseException | None) -> None:
        # asyncio's TLS protocol calls it to close the transport after an error.
        self._connection.abort_with(error)


install(SocketTransport)


class DatagramTransport(_TransportBase, asyncio.Transport, asyncio.DatagramTransport):
    """A datagram socket; an asyncio.Transport too, as asyncio's own class is."""

    _lazy_methods = ("is_closing", "sendto")
    __slots__ = ("__weakref__", "_connection", *_lazy_methods)

    def __init__(self, connection: Any):
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        if name not in self._lazy_methods:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        method = getattr(self._connection, name)
        setattr(self, name, method)
        return method

    def close(self) -> None:
        """Send the write buffer, then close the socket."""
        self._connection.close()

    def abort(self) -> None:
        """Close the socket now; discard the write buffer."""
        self._connection.abort()

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None and not connection.connection_lost_called:
            try:
                warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2)
            finally:
                connection.close_unreferenced(self)

    def __repr__(self) -> str:
        connection = self._connection
        closed = connection.connection_lost_called or connection.fileno() < 0
        state = "closed" if closed else "closing" if connection.is_closing() else "open"
        size = connection.get_write_buffer_size()
        return f"<{type(self).__name__} {state} fd={connection.fileno()} bufsize={size}>"
