"""The transport that a protocol knows: asyncio's class outside, a compiled connection inside.

What is called for each message (`write`, `writelines`) is a slot that holds the connection's own
method, so that no Python runs between the protocol and the socket. A slot is filled when it is
first asked for: a connection that waits in silence keeps no method that it does not use.
"""

from __future__ import annotations

import asyncio
import warnings
from asyncio import constants
from typing import Any


class _Face:
    """What the transports share: all they do is their channel's."""

    __slots__ = ()
    _connection: Any
    _direct: tuple[str, ...]  # slots that stand before the class's methods, empty at first

    def __getattr__(self, name: str) -> Any:
        if name not in self._direct:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        method = getattr(self._connection, name)
        setattr(self, name, method)
        return method

    @property
    def _extra(self) -> Any:
        # asyncio's own get_extra_info looks up names in this: whoever replaces that method on
        # asyncio.BaseTransport replaces it for these transports too.
        return self._connection

    @property
    def _sock(self) -> Any:
        # asyncio's name for its socket object, for programs that look into a transport. Another
        # socket cannot be put in its place: data does not go by way of it.
        sock = self._connection.get_extra_info("socket")
        return None if sock is None else sock._sock

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """What is called from now on."""
        self._connection.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """What is called."""
        protocol: asyncio.BaseProtocol = self._connection.get_protocol()
        return protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bytes kept above which pause_writing, and at or below which resume_writing, is called."""
        self._connection.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high), in bytes."""
        limits: tuple[int, int] = self._connection.get_write_buffer_limits()
        return limits

    def get_write_buffer_size(self) -> int:
        """Bytes kept because there was no room to send them."""
        return int(self._connection.get_write_buffer_size())

    def close(self) -> None:
        """Stops receiving, sends what is kept, then ends."""
        self._connection.close()

    def abort(self) -> None:
        """Ends now; what is kept is not sent."""
        self._connection.abort()

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None and not connection.connection_lost_called:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2)
            connection.close_unreferenced(self)


class SocketTransport(_Face, asyncio.Transport):
    """A connected stream socket, TCP or Unix."""

    _direct = ("is_closing", "write", "writelines")
    __slots__ = ("__weakref__", "_connection", *_direct)

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
        return f"<{type(self).__name__} {' '.join(state)}>"

    # asyncio's way of sending files without sendfile(2) looks at these two.

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
        """True if data_received may be called."""
        return bool(self._connection.is_reading())

    def pause_reading(self) -> None:
        """Stops data_received; what is on its way is held until resume_reading."""
        self._connection.pause_reading()

    def resume_reading(self) -> None:
        """Undoes pause_reading."""
        self._connection.resume_reading()

    def detach_reading(self) -> bool:
        """As pause_reading; until resume_reading another may receive from the descriptor.

        False, and nothing has changed, where bytes may be on their way to here.
        """
        return bool(self._connection.detach_reading())

    def write_eof(self) -> None:
        """Ends the sending side once all is sent; receiving goes on."""
        self._connection.write_eof()

    def can_write_eof(self) -> bool:
        """True."""
        return True

    def _force_close(self, error: BaseException | None) -> None:
        # asyncio's TLS protocol ends its transport so.
        self._connection.abort_with(error)


class DatagramTransport(_Face, asyncio.Transport, asyncio.DatagramTransport):
    """A datagram socket. asyncio's is an asyncio.Transport too, so this is."""

    _direct = ("is_closing", "sendto")
    __slots__ = ("__weakref__", "_connection", *_direct)

    def __init__(self, connection: Any):
        self._connection = connection

    def __repr__(self) -> str:
        connection = self._connection
        closed = connection.connection_lost_called or connection.fileno() < 0
        state = "closed" if closed else "closing" if connection.is_closing() else "open"
        size = connection.get_write_buffer_size()
        return f"<{type(self).__name__} {state} fd={connection.fileno()} bufsize={size}>"
