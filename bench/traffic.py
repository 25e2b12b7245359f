"""Traffic with faults in it, for the soak: each kind does one thing once, checks it, and ends.

A kind may be cancelled at any moment. What goes wrong by intent is swallowed where it is caused;
all else that is raised is a finding.
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
LARGEST = 300_000  # bytes of a message: more than a socket's buffers take at once

Kind = Callable[["Site"], Awaitable[None]]
KINDS: dict[str, Kind] = {}
RARE = {"process": 0.1}  # how often, where the others are 1: this costs more than all else


def kind(function: Kind) -> Kind:
    KINDS[function.__name__] = function
    return function


class Echo(asyncio.Protocol):
    """Sends back what comes; holds off reading while its peer does not take it."""

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


class Taker(asyncio.DatagramProtocol):
    """The next datagram or error."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, _address: Any) -> None:
        self.got.put_nowait(data)

    def error_received(self, error: Exception) -> None:
        self.got.put_nowait(error)


class Site:
    """The servers that the traffic goes to, all in this loop."""

    def __init__(self, certificate: str, chance: random.Random) -> None:
        self.chance = chance
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
        return self.chance.randbytes(int(LARGEST ** self.chance.random()))

    async def connected(self, tls: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opened = noria.open_connection if self.chance.random() < 0.5 else asyncio.open_connection
        if tls:
            return await opened(*self.secure, ssl=self.contexts[1], server_hostname="localhost")
        return await opened(*(self.plain if self.chance.random() < 0.5 else self.streams))


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends with RST in place of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def echoed(site: Site, tls: bool) -> None:
    reader, writer = await site.connected(tls)
    try:
        for _ in range(site.chance.randint(1, 20)):
            message = site.message()
            writer.write(message)
            if await reader.readexactly(len(message)) != message:
                raise AssertionError("bytes came back changed")
        if not tls and site.chance.random() < 0.5:
            writer.write_eof()
            if await reader.read():
                raise AssertionError("bytes that nobody sent")
    finally:
        writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def broken(site: Site, tls: bool) -> None:
    """The connection is reset with bytes on their way in both directions."""
    reader, writer = await site.connected(tls)
    try:
        writer.write(bytes(LARGEST))
        await reader.readexactly(site.chance.randint(1, LARGEST))
    finally:
        reset(writer)


@kind
async def tcp(site: Site) -> None:
    await echoed(site, tls=False)


@kind
async def tls(site: Site) -> None:
    await echoed(site, tls=True)


@kind
async def tcp_reset(site: Site) -> None:
    await broken(site, tls=False)


@kind
async def tls_reset(site: Site) -> None:
    await broken(site, tls=True)


@kind
async def handshake_cut_off(site: Site) -> None:
    """A peer of the TLS server that sends something else, or a part of a greeting, and goes."""
    _, writer = await asyncio.open_connection(*site.secure)
    writer.write(site.chance.choice((b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n")))
    await asyncio.sleep(0)
    reset(writer)


@kind
async def udp(site: Site) -> None:
    loop = asyncio.get_running_loop()
    transport, taker = await loop.create_datagram_endpoint(
        Taker, remote_addr=site.datagrams.get_extra_info("sockname")
    )
    try:
        message = site.chance.randbytes(site.chance.randint(1, 1400))
        with contextlib.suppress(TimeoutError):  # the kernel may drop datagrams
            async with asyncio.timeout(2):
                transport.sendto(message)
                if await taker.got.get() != message:
                    raise AssertionError("a datagram came back changed")
    finally:
        transport.close()


@kind
async def udp_to_nobody(_site: Site) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind((HOST, 0))
        address = free.getsockname()
    transport, taker = await loop.create_datagram_endpoint(Taker, remote_addr=address)
    try:
        transport.sendto(b"anybody?")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await taker.got.get()
    finally:
        transport.close()


@kind
async def sockets(site: Site) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, site.plain)
        message = site.message()
        sending = asyncio.ensure_future(loop.sock_sendall(sock, message))
        try:
            left = len(message)
            while left:
                left -= len(await loop.sock_recv(sock, left))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


@kind
async def refused(_site: Site) -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        address = free.getsockname()
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.get_running_loop().create_connection(asyncio.Protocol, *address)


@kind
async def threads(_site: Site) -> None:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    await loop.run_in_executor(None, loop.call_soon_threadsafe, woken.set)
    await woken.wait()


@kind
async def timers(site: Site) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(100):
        loop.call_later(site.chance.random() * 60, int).cancel()
    await asyncio.sleep(site.chance.random() / 100)


@kind
async def name(_site: Site) -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


@kind
async def process(site: Site) -> None:
    """A process that ends, or is killed."""
    child = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        if site.chance.random() < 0.5:
            child.kill()
        else:
            await child.communicate(b"hello")
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await asyncio.shield(child.wait())
        if sys.version_info < (3, 12):  # there the process's pipes are closed some turns later
            await asyncio.sleep(0)
