"""Context variables: each client is served in a copy of the server's context."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, client_context, run, server_context


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")


class Noting(asyncio.Protocol):
    """Records the variable's value in each callback."""

    def __init__(self, seen: dict[str, str], done: asyncio.Future[None]) -> None:
        self.seen, self.done = seen, done
        seen["factory"] = place.get()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.seen["connection_made"] = place.get()

    def data_received(self, data: bytes) -> None:
        self.seen["data_received"] = place.get()
        self.transport.write(data)

    def eof_received(self) -> None:
        self.seen["eof_received"] = place.get()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.seen["connection_lost"] = place.get()
        self.done.set_result(None)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_protocols_run_in_the_context_of_create_server(model: str, secure: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: dict[str, str] = {}
        done: asyncio.Future[None] = loop.create_future()

        async def serve() -> asyncio.Server:
            place.set("server")
            return await loop.create_server(
                lambda: Noting(seen, done),
                "127.0.0.1",
                0,
                ssl=server_context() if secure else None,
            )

        server = await loop.create_task(serve())
        place.set("main")
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context() if secure else None
        )
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        await done
        await writer.wait_closed()
        assert set(seen.values()) == {"server"}
        assert len(seen) == 5
        server.close()
        await server.wait_closed()

    run(main(), model)


@pytest.mark.parametrize("streams", [asyncio, noria], ids=["asyncio", "noria"])
def test_stream_handlers_run_in_the_context_of_start_server(model: str, streams: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(place.get())
            place.set("handler")
            await reader.read()
            seen.append(place.get())
            writer.close()

        async def serve() -> asyncio.Server:
            place.set("server")
            started: asyncio.Server = await streams.start_server(handle, "127.0.0.1", 0)
            return started

        server = await loop.create_task(serve())
        # The second client does not see what the first one's handler sets.
        for _ in range(2):
            sock = socket.create_connection(server.sockets[0].getsockname())
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
            assert await loop.sock_recv(sock, 1) == b""
            sock.close()
        assert seen == ["server", "handler"] * 2
        assert place.get() == "nowhere"
        server.close()
        await server.wait_closed()

    run(main(), model)


class Setting(Noting):
    """Sets the variable in its factory and in connection_made."""

    def __init__(self, seen: dict[str, str], done: asyncio.Future[None]) -> None:
        super().__init__(seen, done)
        place.set("factory")

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        place.set("made")


@pytest.mark.skipif(sys.version_info < (3, 15), reason="asyncio has no such context there")
def test_what_a_servers_protocol_sets_is_seen_by_its_later_calls(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: dict[str, str] = {}
        done: asyncio.Future[None] = loop.create_future()
        server = await loop.create_server(lambda: Setting(seen, done), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        writer.close()
        await done
        assert seen["connection_made"] == "factory"
        assert seen["data_received"] == seen["connection_lost"] == "made"
        assert place.get() == "nowhere"
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_a_clients_context_is_copied_before_or_after_its_factory(model: str) -> None:
    """Before the factory from Python 3.15 on: connection_made does not see its values."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: dict[str, str] = {}
        done: asyncio.Future[None] = loop.create_future()
        one, two = socket.socketpair()
        with two:
            one.setblocking(False)
            place.set("client")
            transport, _ = await loop.create_connection(lambda: Setting(seen, done), sock=one)
            transport.abort()
            await done
        before = sys.version_info >= (3, 15)
        assert seen["connection_made"] == ("client" if before else "factory")

    run(main(), model)
