"""A loop that is created in one thread, runs in others and is closed in another one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, Keeper


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def new_loop(model: str) -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop() if model == ORACLE else noria.new_event_loop(model)


def in_a_thread(function: Callable[[], Any]) -> Any:
    """Run the function in a new thread; return its result or raise its exception."""
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


def test_connections_continue_in_the_next_thread(model: str) -> None:
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
        # Some data arrives while the loop runs, and may be received but not delivered.
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
        # The loop was never closed.
        warnings.simplefilter("ignore", ResourceWarning)
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


def test_thousands_of_connections_continue_in_the_next_run(model: str) -> None:
    if model == "select":
        pytest.skip("select has its own limit of descriptors")
    loop = new_loop(model)
    pairs = [socket.socketpair() for _ in range(2500)]
    received: set[int] = set()

    class Counting(asyncio.Protocol):
        def __init__(self, number: int) -> None:
            self.number = number

        def connection_made(self, transport: Any) -> None:
            transports.append(transport)

        def data_received(self, data: bytes) -> None:
            received.add(self.number)
            if len(received) == len(pairs):
                loop.stop()

    transports: list[Any] = []

    async def connect() -> None:
        for number, (mine, _) in enumerate(pairs):
            mine.setblocking(False)
            await loop.create_connection(lambda number=number: Counting(number), sock=mine)

    loop.run_until_complete(connect())
    for run in (loop.run_forever, lambda: in_a_thread(loop.run_forever)):
        received.clear()
        for _, peer in pairs:
            peer.send(b"x")
        run()
        assert len(received) == len(pairs)
    for transport in transports:
        transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    # The end of the run has closed all connections.
    for _, peer in pairs:
        peer.setblocking(False)
        assert peer.recv(1) == b""
        peer.close()
    loop.close()


def test_a_busy_server_that_closes_refuses_connections_at_once(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        keepers: list[Keeper] = []

        def factory() -> Keeper:
            keepers.append(Keeper())
            return keepers[-1]

        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = []
        for _ in range(60):
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, address)
            clients.append(client)
        while len(keepers) < len(clients):
            await asyncio.sleep(0)
        for client in clients:
            client.send(b"x")
        server.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for client in clients:
            client.close()
        for keeper in keepers:
            await keeper.lost
        await server.wait_closed()

    loop = new_loop(model)
    loop.run_until_complete(main())
    loop.close()


def test_a_run_without_a_free_descriptor_fails_and_the_next_one_runs(model: str) -> None:
    loop = new_loop(model)
    for _ in range(2):
        with no_descriptors(), contextlib.suppress(OSError):
            in_a_thread(lambda: loop.run_until_complete(nothing()))
        for run in (lambda function: function(), in_a_thread):
            assert run(lambda: loop.run_until_complete(nothing())) == "done"
    loop.close()


async def nothing() -> str:
    return "done"


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """A context in which no descriptor is free."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Interrupting(Keeper):
    """The callback of that name raises KeyboardInterrupt once."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def interrupt(self, name: str) -> None:
        if self.name == name:
            self.name = ""
            raise KeyboardInterrupt

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.interrupt("data_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.interrupt("connection_lost")


def test_a_lost_connection_is_closed_with_an_interrupted_loop(model: str) -> None:
    loop = new_loop(model)
    mine, peer = socket.socketpair()

    async def main() -> None:
        transport, _ = await loop.create_connection(
            lambda: Interrupting("connection_lost"), sock=mine
        )
        kept.append(transport)
        transport.abort()
        peer.shutdown(socket.SHUT_WR)
        await asyncio.sleep(60)

    kept: list[Any] = []
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    peer.settimeout(30)
    assert peer.recv(1) == b""
    peer.close()


def test_large_messages_continue_after_an_interrupt(model: str) -> None:
    loop = new_loop(model)
    pairs = [socket.socketpair() for _ in range(4)]
    keepers: list[Interrupting] = []

    async def connect() -> None:
        for mine, peer in pairs:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            _, keeper = await loop.create_connection(
                lambda: Interrupting("data_received"), sock=mine
            )
            keepers.append(keeper)

    loop.run_until_complete(connect())
    message = bytes(range(250)) * 200
    for _ in range(3):
        for _, peer in pairs:
            peer.sendall(message)
        while not all(len(keeper.data) >= len(message) for keeper in keepers):
            with contextlib.suppress(KeyboardInterrupt):
                loop.run_until_complete(asyncio.sleep(0.001))
        for keeper in keepers:
            assert bytes(keeper.data) == message
            keeper.data.clear()
            keeper.name = "data_received"
    for keeper in keepers:
        keeper.name = ""
        keeper.transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    for _, peer in pairs:
        peer.setblocking(False)
        assert peer.recv(1) == b""
        peer.close()
    loop.close()
