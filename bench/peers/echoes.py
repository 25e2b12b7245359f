"""Echo servers other than the plain protocol: buffered, datagrams, streams, sock_* methods."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

ROOM = 256 * 1024


class BufferedEcho(asyncio.BufferedProtocol):
    """Echo with a BufferedProtocol."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = memoryview(bytearray(ROOM))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, n: int) -> None:
        self.transport.write(self.buffer[:n])


class Datagrams(asyncio.DatagramProtocol):
    """Echo datagrams."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo one connection of a stream server."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(ROOM):
            writer.write(data)
            await writer.drain()
    writer.close()


async def sock(loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
    """Echo one connection with loop.sock_recv and loop.sock_sendall."""
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(client, ROOM):
            await loop.sock_sendall(client, data)


async def accept(listener: socket.socket) -> None:
    """Accept connections for `sock`."""
    loop = asyncio.get_running_loop()
    tasks = set()
    while True:
        client, _ = await loop.sock_accept(listener)
        tasks.add(asyncio.ensure_future(sock(loop, client)))
