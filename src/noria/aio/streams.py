"""asyncio's streams with compiled readers and writers.

`open_connection`, `start_server` and their Unix-socket forms are asyncio's, but that the reader and
the writer they make are compiled where they run for each message. They work on any event loop.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import streams
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from noria._core.aio.streams import Feed, Reader, Writer

LIMIT = 2**16  # bytes of a line, and half the bytes kept before reading is paused: asyncio's

if TYPE_CHECKING:  # asyncio's own, which its stubs leave out

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

Connected = Callable[["StreamReader", "StreamWriter"], Awaitable[None] | None]


class StreamReader(Reader, _Reader):
    """asyncio.StreamReader, compiled."""


class StreamWriter(Writer, _Writer):
    """asyncio.StreamWriter, compiled."""

    def __init__(self, transport: Any, protocol: Any, reader: Any, loop: Any):
        self._transport = transport
        self._protocol = protocol
        self._reader = reader
        self._loop = loop


class StreamReaderProtocol(Feed, _Protocol):
    """asyncio.StreamReaderProtocol, compiled."""

    def connection_made(self, transport: Any) -> None:
        """The reader and the writer are there: whoever serves connections is called."""
        if self._client_connected_cb is None or self._reject_connection:
            _Protocol.connection_made(self, transport)
            return
        # As asyncio's, which would make a writer of its own.
        self._transport = transport
        reader: Any = self._stream_reader
        if reader is not None:
            reader.set_transport(transport)
        self._over_ssl = transport.get_extra_info("sslcontext") is not None
        writer = StreamWriter(transport, self, reader, self._loop)
        if hasattr(self, "_stream_writer"):  # until Python 3.12 the protocol keeps it
            self._stream_writer = writer
        result = self._client_connected_cb(reader, writer)
        if asyncio.iscoroutine(result):
            self._task = self._loop.create_task(result)
            self._task.add_done_callback(functools.partial(self._served, transport))
        self._strong_reader = None

    def _served(self, transport: asyncio.Transport, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            transport.close()
        if error is not None:
            self._loop.call_exception_handler(
                {
                    "message": "Unhandled exception in client_connected_cb",
                    "exception": error,
                    "transport": transport,
                }
            )


def _client(limit: int) -> tuple[StreamReader, StreamReaderProtocol]:
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit=limit, loop=loop)
    return reader, StreamReaderProtocol(reader, loop=loop)


def _server(connected: Connected, limit: int) -> Callable[[], StreamReaderProtocol]:
    loop = asyncio.get_running_loop()

    def factory() -> StreamReaderProtocol:
        reader = StreamReader(limit=limit, loop=loop)
        return StreamReaderProtocol(reader, cast("Any", connected), loop=loop)

    return factory


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = LIMIT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """asyncio.open_connection with a compiled reader and writer.

    `limit` is in bytes; the other options are those of create_connection. Raises OSError.
    """
    reader, protocol = _client(limit)
    loop = asyncio.get_running_loop()
    where = cast("Any", (host, port))
    transport, _ = await loop.create_connection(lambda: protocol, *where, **options)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def open_unix_connection(
    path: str | None = None, *, limit: int = LIMIT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """asyncio.open_unix_connection with a compiled reader and writer."""
    reader, protocol = _client(limit)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **options)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: Connected,
    host: Any = None,
    port: Any = None,
    *,
    limit: int = LIMIT,
    **options: Any,
) -> asyncio.Server:
    """asyncio.start_server with compiled readers and writers.

    `limit` is in bytes; the other options are those of create_server. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    factory = _server(client_connected_cb, limit)
    return await loop.create_server(factory, host, port, **options)


async def start_unix_server(
    client_connected_cb: Connected, path: Any = None, *, limit: int = LIMIT, **options: Any
) -> asyncio.AbstractServer:
    """asyncio.start_unix_server with compiled readers and writers."""
    loop = asyncio.get_running_loop()
    factory = _server(client_connected_cb, limit)
    return await loop.create_unix_server(factory, path, **options)


def install() -> None:
    """From now on asyncio's own open_connection, start_server and subprocess pipes use these."""
    for made in (StreamReader, StreamWriter, StreamReaderProtocol):
        for module in (asyncio, streams):
            setattr(module, made.__name__, made)
