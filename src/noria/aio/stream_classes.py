"""asyncio's stream classes with compiled hot paths.

`noria.aio.streams` imports this module only if all private names of asyncio that it uses are known
(`noria.aio.asyncio_names`).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria._core.aio.streams import (
    StreamReaderBase,
    StreamReaderProtocolBase,
    StreamWriterBase,
)

if TYPE_CHECKING:
    import ssl

    # private names of asyncio
    class _Protocol(asyncio.StreamReaderProtocol):
        _client_connected_cb: Callable[..., Any] | None
        _stream_reader: asyncio.StreamReader | None
        _reject_connection: bool
        _over_ssl: bool
        _strong_reader: asyncio.StreamReader | None
        _loop: asyncio.AbstractEventLoop

else:
    _Protocol = asyncio.StreamReaderProtocol

_Reader = asyncio.StreamReader
_Writer = asyncio.StreamWriter


class StreamReader(StreamReaderBase, _Reader):
    """asyncio.StreamReader, compiled."""


class StreamWriter(StreamWriterBase, _Writer):
    """asyncio.StreamWriter, compiled."""

    def __init__(self, transport: Any, protocol: Any, reader: Any, loop: Any):
        self._transport = transport
        self._protocol = protocol
        self._reader = reader
        self._loop = loop

    async def start_tls(self, sslcontext: ssl.SSLContext, **options: Any) -> None:
        """Upgrade the connection to TLS. As asyncio.StreamWriter.start_tls."""
        await _Writer.start_tls(self, sslcontext, **options)
        # Before Python 3.14 asyncio leaves the plain transport in the reader, which would pause and
        # resume the wrong one.
        reader: Any = self._reader
        if reader is not None:
            reader._transport = self._transport


class StreamReaderProtocol(StreamReaderProtocolBase, _Protocol):
    """asyncio.StreamReaderProtocol, compiled."""

    def connection_made(self, transport: Any) -> None:
        """Create the writer and call client_connected_cb."""
        if self._client_connected_cb is None or self._reject_connection:
            _Protocol.connection_made(self, transport)
            return
        # As asyncio's method, which would create an asyncio.StreamWriter.
        self._transport = transport
        reader: Any = self._stream_reader
        if reader is not None:
            reader.set_transport(transport)
        self._over_ssl = transport.get_extra_info("sslcontext") is not None
        writer = StreamWriter(transport, self, reader, self._loop)
        if hasattr(self, "_stream_writer"):
            # Python 3.11
            self._stream_writer = writer
        try:
            result = self._client_connected_cb(reader, writer)
        except Exception as error:
            self._report(error, transport)
            transport.close()
            self._strong_reader = None
            return
        if asyncio.iscoroutine(result):
            self._task = self._loop.create_task(result)
            self._task.add_done_callback(functools.partial(self._served, transport))
        self._strong_reader = None

    def _served(self, transport: asyncio.Transport, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._report(error, transport)
        if task.cancelled() or error is not None:
            transport.close()

    def _report(self, error: BaseException, transport: asyncio.Transport) -> None:
        self._loop.call_exception_handler(
            {
                "message": "Unhandled exception in client_connected_cb",
                "exception": error,
                "transport": transport,
            }
        )
