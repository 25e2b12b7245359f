"""System calls that Python code of the loop makes are counted and recorded, on every model."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import struct
from pathlib import Path

import pytest
from tests.sight.test_agreement import recorded

from noria.aio import tls
from noria.sight.observation import ConnectionFigures, LoopFigures
from support.loops import CERTIFICATE, MODELS
from support.waiting import DEADLINE

pytestmark = pytest.mark.parametrize("model", MODELS)

FILE_SIZE = 3_000_000


def connection(figures: LoopFigures, fd: int) -> ConnectionFigures:
    (found,) = (each for each in figures.connections if each.fd == fd)
    return found


def test_streams(model: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(FILE_SIZE))
    fds: list[int] = []
    sent = received = 0

    async def main() -> None:
        nonlocal sent, received
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.create_task(loop.sock_accept(listener))
            await asyncio.sleep(0)
            await loop.sock_connect(client, listener.getsockname())
            server, _ = await accepting
            fds.extend([listener.fileno(), client.fileno(), server.fileno()])
            with server, path.open("rb") as file:

                async def serve() -> None:
                    nonlocal received
                    buffer = bytearray(50_000)
                    while size := await loop.sock_recv_into(server, buffer):
                        received += size
                        await loop.sock_sendall(server, buffer[: size // 2])

                async def drain() -> None:
                    while await loop.sock_recv(client, 100_000):
                        pass

                tasks = asyncio.create_task(serve()), asyncio.create_task(drain())
                await loop.sock_sendall(client, bytearray(500_000))
                sent = 500_000 + await loop.sock_sendfile(client, file, fallback=False)
                client.shutdown(socket.SHUT_WR)
                await tasks[0]
                server.shutdown(socket.SHUT_WR)
                await tasks[1]

    figures = recorded(main, model)
    _, client, server = (connection(figures, fd) if fd != fds[0] else None for fd in fds)
    assert client is not None
    assert server is not None
    assert client.bytes_out == server.bytes_in == sent == received == 500_000 + FILE_SIZE
    assert client.bytes_in == server.bytes_out > sent // 3
    assert figures.connections_opened == 2
    assert client.receives + server.receives == figures.system_calls["receives"]
    assert client.sends + server.sends == figures.system_calls["sends"]
    assert client.blocked_sends + server.blocked_sends == figures.system_calls["blocked_sends"]
    assert figures.system_calls["accepts"] - figures.system_calls["empty_accepts"] == 1


def test_datagrams(model: str) -> None:
    fds: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            fds.extend([one.fileno(), other.fileno()])
            for sock in (one, other):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            receiving = asyncio.create_task(loop.sock_recvfrom(other, 100))
            await asyncio.sleep(0)
            assert await loop.sock_sendto(one, b"x" * 70, other.getsockname()) == 70
            assert await receiving == (b"x" * 70, one.getsockname())
            await loop.sock_sendto(one, b"y" * 7, other.getsockname())
            buffer = bytearray(100)
            assert (await loop.sock_recvfrom_into(other, buffer))[0] == 7

    figures = recorded(main, model)
    one, other = (connection(figures, fd) for fd in fds)
    assert (one.bytes_out, one.sends) == (77, 2)
    assert other.bytes_in == 77
    assert other.receives == figures.system_calls["receives"] >= 3
    assert figures.system_calls["sends"] == 2


def test_the_error_that_ends_a_connection(model: str) -> None:
    async def main() -> None:
        lost = asyncio.get_running_loop().create_future()

        class Server(asyncio.Protocol):
            def connection_lost(self, error: BaseException | None) -> None:
                lost.set_result(error)

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0)
        async with server:
            client = await asyncio.to_thread(
                socket.create_connection, server.sockets[0].getsockname()
            )
            await asyncio.sleep(0.01)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            assert isinstance(await lost, ConnectionResetError)

    figures = recorded(main, model)
    (reset,) = figures.connections
    assert reset.error == errno.ECONNRESET
    assert reset.closed


def test_handshakes_of_asyncios_own_tls(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "TLSProtocol", tls.PlainTLSProtocol)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    refusing = ssl.create_default_context()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await writer.start_tls(context)
            writer.write(await reader.read(100))
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            for client in (trusting, refusing):
                reader, writer = await asyncio.open_connection(*address)
                try:
                    await writer.start_tls(client, server_hostname="localhost")
                    writer.write(b"x" * 100)
                    assert await reader.read() == b"x" * 100
                except ssl.SSLError:
                    assert client is refusing
                writer.close()
                # The application's protocol must be told of a failed handshake's end, too.
                with contextlib.suppress(OSError):
                    await asyncio.wait_for(writer.wait_closed(), DEADLINE)

    figures = recorded(main, model)
    states = sorted(each.tls for each in figures.connections)
    assert states == ["TLS", "TLS", "failed", "failed"]
