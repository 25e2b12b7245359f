"""Traffic with injected faults for bench/soak.py: each kind does one thing once and checks it.

A kind may be cancelled at any time. Each suppresses the exceptions of its own faults; any other
exception is a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import noria

HOST = "127.0.0.1"
MAX_MESSAGE_BYTES = 300_000  # more than a socket's buffers hold

Kind = Callable[["Servers"], Awaitable[None]]
KINDS: dict[str, Kind] = {}
WEIGHTS = {"process": 0.1}  # the default is 1; a process costs more than all other kinds


def kind(function: Kind) -> Kind:
    KINDS[function.__name__] = function
    return function


class Echo(asyncio.Protocol):
    """Send data back; pause reading while the peer does not read."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        with contextlib.suppress(RuntimeError):  # closing already
            self.transport.resume_reading()


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


class Receiver(asyncio.DatagramProtocol):
    """Queue received datagrams and errors."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, _address: Any) -> None:
        self.received.put_nowait(data)

    def error_received(self, error: Exception) -> None:
        self.received.put_nowait(error)


class Servers:
    """The servers of the traffic, all on the running loop."""

    def __init__(self, certificate: str, source: random.Random) -> None:
        self.random = source
        self.contexts = (
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
            ssl.create_default_context(cafile=certificate),
        )
        self.contexts[0].load_cert_chain(certificate)
        self.servers: list[Any] = []

    async def open(self) -> None:
        loop = asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer), contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()

        secure = self.contexts[0]
        self.servers = [
            await loop.create_server(Echo, HOST, 0),
            await loop.create_server(Echo, HOST, 0, ssl=secure, ssl_handshake_timeout=5),
            await noria.start_server(serve, HOST, 0),
        ]
        self.plain, self.secure, self.streams = (s.sockets[0].getsockname() for s in self.servers)
        self.datagrams, _ = await loop.create_datagram_endpoint(EchoDatagrams, (HOST, 0))

    async def close(self) -> None:
        self.datagrams.close()
        for server in self.servers:
            server.close()
            await server.wait_closed()

    def message(self) -> bytes:
        return self.random.randbytes(int(MAX_MESSAGE_BYTES ** self.random.random()))

    async def connected(self, tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opened = noria.open_connection if self.random.random() < 0.5 else asyncio.open_connection
        if tls:
            return await opened(*self.secure, ssl=self.contexts[1], server_hostname="localhost")
        return await opened(*(self.plain if self.random.random() < 0.5 else self.streams))


def reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def echoed(servers: Servers, tls: bool) -> None:
    reader, writer = await servers.connected(tls)
    try:
        for _ in range(servers.random.randint(1, 20)):
            message = servers.message()
            writer.write(message)
            if await reader.readexactly(len(message)) != message:
                raise AssertionError("bytes came back changed")
        if not tls and servers.random.random() < 0.5:
            writer.write_eof()
            if await reader.read():
                raise AssertionError("received bytes that were not sent")
    finally:
        writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def aborted(servers: Servers, tls: bool) -> None:
    """Reset a connection with data in flight in both directions."""
    reader, writer = await servers.connected(tls)
    try:
        writer.write(bytes(MAX_MESSAGE_BYTES))
        await reader.readexactly(servers.random.randint(1, MAX_MESSAGE_BYTES))
    finally:
        reset(writer)


@kind
async def tcp(servers: Servers) -> None:
    await echoed(servers, tls=False)


@kind
async def tls(servers: Servers) -> None:
    await echoed(servers, tls=True)


@kind
async def tcp_reset(servers: Servers) -> None:
    await aborted(servers, tls=False)


@kind
async def tls_reset(servers: Servers) -> None:
    await aborted(servers, tls=True)


@kind
async def handshake_cut_off(servers: Servers) -> None:
    """Send a partial ClientHello or plain HTTP to the TLS server, then reset."""
    _, writer = await asyncio.open_connection(*servers.secure)
    writer.write(servers.random.choice((b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n")))
    await asyncio.sleep(0)
    reset(writer)


@kind
async def udp(servers: Servers) -> None:
    loop = asyncio.get_running_loop()
    transport, receiver = await loop.create_datagram_endpoint(
        Receiver, remote_addr=servers.datagrams.get_extra_info("sockname")
    )
    try:
        message = servers.random.randbytes(servers.random.randint(1, 1400))
        with contextlib.suppress(TimeoutError):  # the kernel may drop datagrams
            async with asyncio.timeout(2):
                transport.sendto(message)
                if await receiver.received.get() != message:
                    raise AssertionError("a datagram came back changed")
    finally:
        transport.close()


@kind
async def udp_unreachable(_servers: Servers) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        address = free.getsockname()
    transport, receiver = await loop.create_datagram_endpoint(Receiver, remote_addr=address)
    try:
        transport.sendto(b"anybody?")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await receiver.received.get()
    finally:
        transport.close()


@kind
async def sockets(servers: Servers) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, servers.plain)
        message = servers.message()
        sending = asyncio.ensure_future(loop.sock_sendall(sock, message))
        try:
            left = len(message)
            while left:
                left -= len(await loop.sock_recv(sock, left))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


@kind
async def refused(_servers: Servers) -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        address = free.getsockname()
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, *address)


@kind
async def threads(_servers: Servers) -> None:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    await loop.run_in_executor(None, loop.call_soon_threadsafe, woken.set)
    await woken.wait()


@kind
async def timers(servers: Servers) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(100):
        loop.call_later(servers.random.random() * 60, int).cancel()
    await asyncio.sleep(servers.random.random() / 100)


@kind
async def name(_servers: Servers) -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


@kind
async def process(servers: Servers) -> None:
    """Run a process that exits or is killed."""
    child = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        if servers.random.random() < 0.5:
            child.kill()
        else:
            await child.communicate(b"hello")
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await asyncio.shield(child.wait())
        if sys.version_info < (3, 12):  # the pipes are closed some loop iterations later
            await asyncio.sleep(0)
