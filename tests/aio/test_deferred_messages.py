"""Messages whose write was deferred are reused once sent, unless code refers to them."""

from __future__ import annotations

import asyncio
import gc
import socket
import sysconfig
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from support.loops import MODELS, run

CONNECTIONS = 100  # more than the writes that one turn defers
ROUNDS = 10


class Echo(asyncio.Protocol):
    """Writes what it receives, after `see` has seen it."""

    def __init__(self, see: Callable[[bytes], None]) -> None:
        self.see = see

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.see(data)
        self.transport.write(data)


def message(number: int, of_round: int) -> bytes:
    return b"%06d" % (number + CONNECTIONS * of_round) + b"." * (1000 + number % 7)


def exchange(clients: list[socket.socket], of_round: int) -> None:
    """Send a message on each connection, then receive the echoes."""
    for number, client in enumerate(clients):
        client.sendall(message(number, of_round))
    for number, client in enumerate(clients):
        expected = message(number, of_round)
        assert client.recv(len(expected), socket.MSG_WAITALL) == expected


async def echo(see: Callable[[bytes], None]) -> None:
    """Have ROUNDS messages of each connection echoed; in each round all arrive before a turn."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(see), "127.0.0.1", 0, backlog=CONNECTIONS)
    address = server.sockets[0].getsockname()
    clients = [socket.create_connection(address, timeout=10) for _ in range(CONNECTIONS)]
    try:
        for of_round in range(ROUNDS):
            await asyncio.to_thread(exchange, clients, of_round)
    finally:
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("model", MODELS)
def test_a_message_that_is_kept_after_its_deferred_write_stays_as_it_was(model: str) -> None:
    kept: list[bytes] = []
    copies: list[bytearray] = []

    def keep_some(data: bytes) -> None:
        if len(data) % 3 == 0:
            kept.append(data)
            copies.append(bytearray(data))

    run(echo(keep_some), model)
    assert kept
    assert kept == copies


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without the GIL no message is overwritten",
)
@pytest.mark.parametrize("model", MODELS)
def test_a_message_of_a_deferred_write_is_reused(model: str) -> None:
    addresses: set[int] = set()
    fillers: list[bytes] = []

    def see(data: bytes) -> None:
        addresses.add(id(data))
        fillers.append(bytes(len(data)))  # would reuse the memory of a freed message

    run(echo(see), model)
    assert len(addresses) < CONNECTIONS * ROUNDS / 2


@pytest.mark.parametrize("model", MODELS)
def test_a_constant_that_was_written_is_not_overwritten(model: str) -> None:
    written = b"constant" * 16
    before = bytearray(written)

    class Constant(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(written)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Constant, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address, timeout=10) for _ in range(10)]

        def talk() -> None:
            for _ in range(5):
                for client in clients:
                    client.sendall(b"?" * len(written))
                for client in clients:
                    assert client.recv(len(written), socket.MSG_WAITALL) == before

        await asyncio.to_thread(talk)
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()

    run(main(), model)
    assert written == before


@pytest.mark.parametrize("model", MODELS)
def test_the_loop_keeps_no_connection_whose_deferred_write_was_sent(model: str) -> None:
    protocols: list[weakref.ref[Any]] = []

    class Once(Echo):
        def __init__(self) -> None:
            super().__init__(lambda data: None)
            protocols.append(weakref.ref(self))

    async def main() -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Once, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address, timeout=10) for _ in range(10)]
        await asyncio.to_thread(exchange, clients, 0)
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()
        for _ in range(20):
            await asyncio.sleep(0.01)
            gc.collect()
            if not any(protocol() for protocol in protocols):
                break
        return sum(protocol() is not None for protocol in protocols)

    assert run(main(), model) == 0
    assert len(protocols) == 10
