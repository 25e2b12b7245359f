"""An echo server on an event loop of choice: loop_server.py LOOP KIND. Prints "listening PORT".

KIND: protocol, buffered, streams, sock, udp. SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

from loops import loop_factory
from protocol import BACKLOG, Echo, raise_descriptor_limit


class BufferedEcho(asyncio.BufferedProtocol):
    """The echo with a buffer of its own."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.buffer = memoryview(bytearray(256 * 1024))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, n: int) -> None:
        self.transport.write(self.buffer[:n])


class Datagrams(asyncio.DatagramProtocol):
    """The echo of datagrams."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(256 * 1024):
            writer.write(data)
            await writer.drain()
    writer.close()


async def sock(loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
    client.setblocking(False)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(client, 256 * 1024):
            await loop.sock_sendall(client, data)


async def accept(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
    tasks = set()
    while True:
        client, _ = await loop.sock_accept(listener)
        tasks.add(asyncio.ensure_future(sock(loop, client)))


async def main(kind: str) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    raise_descriptor_limit()
    if kind == "udp":
        transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        print("listening", transport.get_extra_info("sockname")[1], flush=True)
        await asyncio.Event().wait()
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    kept: Any
    if kind == "streams":
        kept = await asyncio.start_server(streams, sock=listener, backlog=BACKLOG)
    elif kind == "sock":
        kept = asyncio.ensure_future(accept(loop, listener))
    else:
        protocol = {"protocol": Echo, "buffered": BufferedEcho}[kind]
        kept = await loop.create_server(protocol, sock=listener, backlog=BACKLOG)
    print("listening", port, flush=True)
    await asyncio.Event().wait()
    del kept


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(main(sys.argv[2]))
