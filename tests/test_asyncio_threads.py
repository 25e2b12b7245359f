"""A loop that is made in one thread, runs in others, and is closed from yet another."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import noria
from loops import MODELS, ORACLE, Keeper


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def new_loop(model: str) -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)


def in_a_thread(function: Callable[[], Any]) -> Any:
    """The function's result, or what it raised, from a thread of its own."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def test_a_loop_made_here_runs_in_the_background(model: str) -> None:
    async def where() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    loop = new_loop(model)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert asyncio.run_coroutine_threadsafe(where(), loop).result() == thread.ident
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_more_is_watched_before_the_first_run_than_a_ring_has_entries(model: str) -> None:
    if model == "select":
        pytest.skip("select has its own limit of descriptors")
    loop = new_loop(model)
    pairs = [socket.socketpair() for _ in range(1500)]
    ready: list[int] = []

    def reader(number: int) -> None:
        pairs[number][0].recv(1)
        ready.append(number)
        if len(ready) == len(pairs):
            loop.stop()

    for number, (mine, peer) in enumerate(pairs):
        loop.add_reader(mine, reader, number)
        peer.send(b"x")
    in_a_thread(loop.run_forever)
    assert sorted(ready) == list(range(len(pairs)))
    for mine, peer in pairs:
        loop.remove_reader(mine)
        mine.close()
        peer.close()
    loop.close()


def test_connections_go_on_in_the_next_thread(model: str) -> None:
    loop = new_loop(model)
    server = in_a_thread(lambda: loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0)))
    clients = []
    for _ in range(5):
        client = socket.create_connection(server.sockets[0].getsockname())
        client.settimeout(30)
        clients.append(client)

    async def answered(client: socket.socket, data: bytes) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(None, exchange, client, data)

    def exchange(client: socket.socket, data: bytes) -> bytes:
        client.sendall(data)
        got = b""
        while len(got) < len(data):
            got += client.recv(1 << 20)
        return got

    sizes = (1, 100, 5_000, 100_000, 300_000)
    for number in range(6):
        for client, size in zip(clients, sizes, strict=True):
            data = bytes([number]) * size
            coroutine = answered(client, data)
            if number % 2:
                assert loop.run_until_complete(coroutine) == data
            else:
                task = coroutine
                assert in_a_thread(lambda task=task: loop.run_until_complete(task)) == data

    server.close()
    for client in clients:
        client.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    in_a_thread(loop.close)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_data_that_came_between_two_runs_is_not_lost(model: str) -> None:
    loop = new_loop(model)
    mine, peer = socket.socketpair()
    mine.setblocking(False)

    async def connect() -> Keeper:
        _, keeper = await loop.create_connection(Keeper, sock=mine)
        return keeper

    keeper = loop.run_until_complete(connect())
    expected = b""
    for number in range(20):
        # Some of it arrives while the loop runs, and may be received without being delivered.
        loop.call_soon(loop.stop)
        peer.send(b"a%d" % number)
        in_a_thread(loop.run_forever)
        peer.send(b"b%d" % number)
        expected += b"a%db%d" % (number, number)
    peer.close()
    in_a_thread(lambda: loop.run_until_complete(keeper.lost))
    assert bytes(keeper.data) == expected
    in_a_thread(loop.close)


@pytest.mark.filterwarnings("ignore:Exception ignored")
def test_closing_from_another_thread_leaks_no_socket(model: str) -> None:
    loop = new_loop(model)
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    transport, _ = loop.run_until_complete(loop.create_connection(Keeper, sock=mine))
    in_a_thread(loop.close)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it was never closed
        del transport, mine, _
        gc.collect()
    peer.settimeout(30)
    assert peer.recv(1) == b""
    peer.close()


def test_a_listening_socket_is_closed_between_runs(model: str) -> None:
    loop = new_loop(model)
    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    loop.run_until_complete(server.wait_closed())
    loop.close()


def test_one_turn_of_a_new_run_sees_what_is_there(model: str) -> None:
    loop = new_loop(model)
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    got: list[bytes] = []
    loop.add_reader(mine, lambda: got.append(mine.recv(100)))
    for number in range(5):
        peer.send(b"%d" % number)
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert got == [b"%d" % seen for seen in range(number + 1)]
    loop.remove_reader(mine)
    mine.close()
    peer.close()
    loop.close()


def test_files_are_read_in_one_thread_after_another(model: str, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def read() -> bytes:
        async with noria.open(path, "rb") as file:
            return await file.read()

    loop = new_loop(model)
    assert loop.run_until_complete(read()) == b"content"
    assert in_a_thread(lambda: loop.run_until_complete(read())) == b"content"
    assert loop.run_until_complete(read()) == b"content"
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
