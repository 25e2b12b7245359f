"""What a connection has from accept to close: options, addresses, attributes, its registration."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, Keeper, pair, reset, run, until
from support.waiting import DEADLINE


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def listener() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen(200)
    return sock


def test_every_connection_has_tcp_nodelay(model: str) -> None:
    # Also those that were in the backlog before the server was created.
    async def main() -> None:
        made: list[Any] = []

        class Client(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.append(transport)

        sock = listener()
        clients = [socket.create_connection(sock.getsockname()) for _ in range(70)]
        server = await asyncio.get_running_loop().create_server(Client, sock=sock, backlog=200)
        clients += [socket.create_connection(sock.getsockname()) for _ in range(80)]
        await until(lambda: len(made) == len(clients))
        for transport in made:
            option = transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            assert option
            transport.abort()
        for client in clients:
            client.close()
        server.close()

    run(main(), model)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_addresses_after_a_reset(model: str, host: str) -> None:
    async def main() -> None:
        lost = asyncio.get_running_loop().create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def connection_lost(self, exc: BaseException | None) -> None:
                names = [self.transport.get_extra_info(n) for n in ("peername", "sockname")]
                lost.set_result((exc, *names))

        server = await asyncio.get_running_loop().create_server(Server, host, 0)
        client = socket.create_connection(server.sockets[0].getsockname()[:2])
        addresses = (client.getsockname(), client.getpeername())
        await asyncio.sleep(0.01)
        reset(client)
        error, *names = await lost
        assert isinstance(error, ConnectionResetError)
        assert tuple(names) == addresses
        server.close()

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, 0), family=family).close()
    except OSError:
        pytest.skip(f"the machine has no {host}")
    run(main(), model)


def test_the_addresses_after_connection_lost(model: str) -> None:
    async def main() -> None:
        client, server_side, server = await pair()
        transports = (client.transport, server_side.transport)
        client.transport.close()
        await client.lost
        await server_side.lost
        await asyncio.sleep(0.01)  # until the descriptors are closed
        ends = [[t.get_extra_info(n) for n in ("sockname", "peername")] for t in transports]
        assert ends[0] == ends[1][::-1]
        assert all(address[0] == "127.0.0.1" for address in ends[0])
        assert transports[0].get_extra_info("nothing", 5) == 5
        server.close()

    run(main(), model)


def test_the_addresses_of_a_transport_of_a_closed_loop() -> None:
    loop = noria.new_event_loop()
    client, server_side, server = loop.run_until_complete(pair())
    expected = server_side.transport.get_extra_info("peername")
    server.close()
    loop.close()
    client.transport.abort()
    server_side.transport.abort()
    assert client.transport.get_extra_info("sockname") == expected


def test_attributes_of_a_transport(model: str) -> None:
    async def main() -> None:
        client, server_side, server = await pair()
        client.transport.note = "a program may set attributes"
        written = []
        client.transport.write = written.append
        client.transport.write(b"replaced")
        assert written == [b"replaced"]
        del client.transport.write
        client.transport.write(data=b"sent")
        client.transport.writelines([b", and ", b"sent"])
        await until(lambda: server_side.data == b"sent, and sent")
        with pytest.raises(TypeError):
            client.transport.write()
        with pytest.raises(TypeError):
            client.transport.write(b"", b"")
        with pytest.raises(TypeError):
            client.transport.write(other=b"")
        with pytest.raises(TypeError):
            client.transport.close(1)
        assert client.transport.is_closing() is False
        client.transport.close()
        assert client.transport.is_closing() is True
        await server_side.lost
        server.close()

    run(main(), model)


@pytest.mark.parametrize("model", MODELS)
def test_a_transport_without_a_connection(model: str) -> None:
    async def main() -> None:
        client, _, server = await pair()
        made = type(client.transport).__new__(type(client.transport))
        with pytest.raises(AttributeError):
            made.write(b"x")
        with pytest.raises(TypeError):
            type(client.transport).write(object(), b"x")
        client.transport.abort()
        server.close()

    run(main(), model)


@pytest.mark.parametrize("model", MODELS)
def test_a_closed_connection_whose_descriptor_was_duplicated(model: str) -> None:
    # Its duplicate stays readable, and must neither wake the loop again and again nor be reported
    # to the next connection, which gets its number.
    async def main() -> None:
        client, server_side, server = await pair()
        number = server_side.transport._connection.fileno()
        duplicate = os.dup(number)
        server_side.transport.abort()
        await server_side.lost
        await asyncio.sleep(0.01)
        client.transport.write(b"for the duplicate")
        loop: Any = asyncio.get_running_loop()
        others = []
        second = await loop.create_server(Keeper, "127.0.0.1", 0)
        for _ in range(3):
            _, other = await loop.create_connection(Keeper, *second.sockets[0].getsockname())
            others.append(other)
        await asyncio.sleep(0.01)
        before = loop.model.stats()["waits"]
        await asyncio.sleep(0.05)
        assert loop.model.stats()["waits"] - before < 20
        assert not any(other.data or other.eof for other in others)
        assert os.read(duplicate, 100) == b"for the duplicate"
        os.close(duplicate)
        for other in others:
            other.transport.abort()
        client.transport.abort()
        server.close()
        second.close()

    run(main(), model)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_paused_transport_that_is_dropped_is_closed_with_a_warning(how: str) -> None:
    async def main() -> None:
        client, server_side, server = await pair()
        server_side.transport.pause_reading()
        await asyncio.sleep(0.01)
        del server_side.transport
        made, server_side.made = server_side.made, asyncio.get_running_loop().create_future()
        del made
        del server_side
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            gc.collect()
        server.close()
        getattr(server, f"{how}_clients")()
        await client.lost
        await server.wait_closed()

    noria.run(main(), model="epoll")


def test_loops_that_share_a_listening_socket_share_its_connections(model: str) -> None:
    """Such as workers of uvicorn: on io_uring, the loop that began first had all of them."""
    accepted = [0, 0]
    ready = threading.Barrier(3)
    shared = listener()
    loops: list[asyncio.AbstractEventLoop] = []
    ends: list[asyncio.Event] = []

    async def main(number: int) -> None:
        class Server(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                accepted[number] += 1
                transport.write(b"%d" % number)
                transport.close()

        loop, end = asyncio.get_running_loop(), asyncio.Event()
        server = await loop.create_server(Server, sock=shared.dup())
        loops.append(loop)
        ends.append(end)
        await asyncio.to_thread(ready.wait, DEADLINE)
        await end.wait()
        server.close()

    threads = [threading.Thread(target=run, args=(main(n), model)) for n in range(2)]
    for thread in threads:
        thread.start()
    ready.wait(DEADLINE)
    deadline = time.monotonic() + DEADLINE
    try:
        while not all(accepted):
            assert time.monotonic() < deadline, accepted
            with socket.create_connection(shared.getsockname(), DEADLINE) as client:
                assert client.recv(1) in (b"0", b"1")
    finally:
        for loop, end in zip(loops, ends, strict=True):
            loop.call_soon_threadsafe(end.set)
        for thread in threads:
            thread.join()
        shared.close()


def test_a_listening_socket_that_another_process_makes_non_blocking(model: str) -> None:
    async def main() -> None:
        shared = listener()
        made: list[Keeper] = []

        def protocol() -> Keeper:
            made.append(Keeper())
            return made[-1]

        server = await asyncio.get_running_loop().create_server(protocol, sock=shared.dup())
        clients = []
        for number in range(1, 4):
            shared.setblocking(False)  # the flag is that of the open file: of both
            clients.append(socket.create_connection(shared.getsockname()))
            await until(lambda number=number: len(made) == number)  # type: ignore[misc]
        for client in clients:
            client.close()
        for keeper in made:
            await keeper.lost
        server.close()
        shared.close()

    run(main(), model)
