"""asyncio's streams with compiled readers and writers.

`open_connection`, `start_server` and their Unix forms do what asyncio's do; the methods of the
reader and the writer that run for each message are compiled. They work on any event loop.
"""

from __future__ import annotations

import asyncio
from asyncio import streams
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from noria.aio import asyncio_names

if TYPE_CHECKING:
    from noria.aio.stream_classes import StreamReader, StreamReaderProtocol, StreamWriter

__all__ = [
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "install",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]

# bytes of a line, and half the bytes buffered before reading is paused; asyncio's default
LIMIT = 2**16

# The modules that need asyncio's private names.
MODULES = ("noria.aio.stream_classes", "noria._core.aio.streams")


def _choose() -> tuple[Any, Any, Any]:
    """noria's classes; asyncio's own on a Python whose private names differ."""
    unknown = asyncio_names.unknown(*MODULES)
    if unknown:
        asyncio_names.warn(unknown)
        return asyncio.StreamReader, asyncio.StreamWriter, asyncio.StreamReaderProtocol
    from noria.aio import stream_classes as classes

    return classes.StreamReader, classes.StreamWriter, classes.StreamReaderProtocol


if not TYPE_CHECKING:
    StreamReader, StreamWriter, StreamReaderProtocol = _choose()

Connected = Callable[["StreamReader", "StreamWriter"], Awaitable[None] | None]


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
    """Have asyncio's open_connection, start_server and subprocess pipes use these classes."""
    for cls in (StreamReader, StreamWriter, StreamReaderProtocol):
        for module in (asyncio, streams):
            setattr(module, cls.__name__, cls)
