"""Clients that request a large file and do not read it are closed by the server's sweep."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httptools")

from noria.fileserver.app import FileServerApp, make_service
from noria.fileserver.options import ServerOptions
from support.loops import MODELS, client_context, run, server_context, until

CLIENTS = 50
SIZE = 64 << 20  # bytes: more than the buffers of both ends hold

GET = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
ARCHIVE = b"GET /?archive=tar HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", SIZE)
    return tmp_path


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def has_room(connection: Any) -> bool:
    poll = select.poll()
    poll.register(connection.transport.get_extra_info("socket"), select.POLLOUT)
    return bool(poll.poll(0))


def send(address: Any, request: bytes, context: ssl.SSLContext | None) -> socket.socket:
    """Send the request. The client's buffer is small, so the server's is soon full."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(address)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    sock.sendall(request)
    return sock


@contextlib.contextmanager
def closing(clients: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("request_", "secure"),
    [(GET, False), (GET, True), (ARCHIVE, False)],
    ids=["file", "file by TLS", "archive"],
)
def test_clients_that_stop_reading_leave_no_file_and_no_task(
    model: str, root: Path, request_: bytes, secure: bool
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        options = ServerOptions(directory=str(root))
        server = FileServerApp(make_service(options), options)
        state, grace = server.state, options.limits.rate_window
        listening = await loop.create_server(
            server.protocol_factory, "127.0.0.1", 0, ssl=server_context() if secure else None
        )
        address = listening.sockets[0].getsockname()
        context = client_context() if secure else None

        async def round_of(count: int) -> None:
            clients: list[socket.socket] = []
            with closing(clients):
                for _ in range(count):
                    client = await loop.run_in_executor(None, send, address, request_, context)
                    clients.append(client)
                await until(lambda: len(state.connections) == count)
                quiet = 0
                while quiet < 20:  # turns in which no client takes more
                    busy = any(map(has_room, state.connections))
                    quiet = 0 if busy else quiet + 1
                    await asyncio.sleep(0.005)
                assert all(connection.task is not None for connection in state.connections)
                now = time.monotonic()
                for connection in list(state.connections):
                    connection.check_timeouts(now)
                    connection.check_timeouts(now + 2 * grace)
                await until(lambda: not state.connections)
                await until(lambda: len(asyncio.all_tasks()) == tasks)

        tasks = len(asyncio.all_tasks())
        await round_of(1)  # descriptors of threads and caches stay open
        before = open_files()
        await round_of(CLIENTS if request_ is GET and not secure else 5)
        await until(lambda: open_files() <= before)

        # The server still responds.
        name = "localhost" if secure else None
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=name)
        writer.write(b"HEAD /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        listening.close()
        await state.drain(0)
        server.service.close()

    run(main(), model)
