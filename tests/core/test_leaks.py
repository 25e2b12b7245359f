"""Reference leaks: a repeated operation leaves no additional live blocks.

Blocks are counted by CPython's allocator (sys.getallocatedblocks), which includes objects that the
garbage collector does not track. bench/soak.py checks memory allocated by malloc(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import noria
from support.loops import MODELS, Keeper, client_context, pair, server_context

TIMES = 30  # runs per repeat: one block leaked per run adds this many
REPEATS = 50  # at most: caches fill ever more slowly, a leak grows at a constant rate
SLACK = TIMES // 2

Scenario = Callable[[], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def exchanged(connect: Callable[..., Awaitable[Any]], *address: Any, **options: Any) -> None:
    _, keeper = await connect(Keeper, *address, **options)
    keeper.transport.write(b"x" * 1000)
    while len(keeper.data) < 1000:
        await asyncio.sleep(0)
    keeper.transport.close()
    await keeper.lost


@scenario
async def tcp() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await exchanged(loop.create_connection, *address)
    server.close()
    await server.wait_closed()


@scenario
async def unix() -> None:
    loop = asyncio.get_running_loop()
    path = f"\0noria-{os.getpid()}-{id(loop)}"
    server = await loop.create_unix_server(Echo, path)
    await exchanged(loop.create_unix_connection, path)
    server.close()
    await server.wait_closed()


CONTEXTS: list[Any] = []  # created once, as OpenSSL's caches grow with each context


@scenario
async def tls() -> None:
    if not CONTEXTS:
        CONTEXTS.extend((server_context(), client_context()))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=CONTEXTS[0])
    address = server.sockets[0].getsockname()
    await exchanged(loop.create_connection, *address, ssl=CONTEXTS[1], server_hostname="localhost")
    server.close()
    await server.wait_closed()


@scenario
async def aborted() -> None:
    client, keeper, server = await pair()
    client.transport.write(b"x" * 1_000_000)
    client.transport.abort()
    await keeper.lost
    await client.lost
    server.close()
    await server.wait_closed()


@scenario
async def udp() -> None:
    loop = asyncio.get_running_loop()
    got: asyncio.Future[bytes] = loop.create_future()

    class Taker(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: Any) -> None:
            if not got.done():
                got.set_result(data)

    taker, _ = await loop.create_datagram_endpoint(Taker, local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=taker.get_extra_info("sockname")
    )
    sender.sendto(b"hello")
    assert await got == b"hello"
    taker.close()
    sender.close()
    await asyncio.sleep(0)


@scenario
async def streams() -> None:
    async def serve(reader: noria.StreamReader, writer: noria.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await noria.start_server(serve, "127.0.0.1", 0)
    reader, writer = await noria.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    assert await reader.readuntil(b"\n") == b"hello\n"
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@scenario
async def sockets() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as near:
        listener.setblocking(False)
        near.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await loop.sock_connect(near, listener.getsockname())
        far, _ = await accepting
        with far:
            await loop.sock_sendall(near, b"hello")
            assert await loop.sock_recv(far, 10) == b"hello"
            waiting = asyncio.ensure_future(loop.sock_recv(far, 10))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting


@scenario
async def watchers() -> None:
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    called = loop.create_future()
    loop.add_reader(reader, lambda: called.done() or called.set_result(None))
    os.write(writer, b"x")
    await called
    loop.add_reader(reader, print)
    loop.remove_reader(reader)
    os.close(reader)
    os.close(writer)


@scenario
async def files() -> None:
    client, keeper, server = await pair()
    with open(__file__, "rb") as file:
        sent = await asyncio.get_running_loop().sendfile(client.transport, file)
    client.transport.close()
    await keeper.lost
    assert len(keeper.data) == sent
    server.close()
    await server.wait_closed()


@scenario
async def calls() -> None:
    loop = asyncio.get_running_loop()
    for delay in (0, 0.0001, 1, 60):
        loop.call_later(delay, int).cancel()
    loop.call_later(0.0001, int)
    loop.call_soon(int).cancel()
    loop.call_soon_threadsafe(int)
    await loop.run_in_executor(None, loop.call_soon_threadsafe, int)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(loop.create_future(), 0.0001)
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0.0002)


@pytest.fixture(autouse=True)
def collections_are_quick() -> Iterator[None]:
    """Freeze the objects of other tests, so that collections skip them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.freeze()


def blocks() -> int:
    for _ in range(3):
        gc.collect()
    return sys.getallocatedblocks()


def settles(repeat: Callable[[], None]) -> None:
    """Repeat until a repeat of TIMES runs leaves less than half a block per run."""
    grown = []
    for _ in range(REPEATS):
        before = blocks()
        repeat()
        grown.append(blocks() - before)
        if grown[-1] < SLACK:
            return
    raise AssertionError(f"{grown} more blocks after each {TIMES} runs")


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("model", MODELS)
def test_no_objects_are_left(model: str, name: str) -> None:
    async def repeat() -> None:
        for _ in range(TIMES):
            await SCENARIOS[name]()

    with asyncio.Runner(loop_factory=lambda: noria.new_event_loop(model)) as runner:
        runner.get_loop().set_exception_handler(lambda *_: None)
        settles(lambda: runner.run(repeat()))


@pytest.mark.parametrize("model", MODELS)
def test_loops_leave_no_objects(model: str) -> None:
    def repeat() -> None:
        for _ in range(TIMES):
            noria.run(asyncio.sleep(0), model=model)

    settles(repeat)


def test_a_leak_would_be_seen() -> None:
    """The check detects one leaked object per run."""
    kept: list[object] = []
    with pytest.raises(AssertionError, match="more blocks"):
        settles(lambda: kept.extend([object()] for _ in range(TIMES)))
