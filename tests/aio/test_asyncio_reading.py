"""Received data is complete, in order, and not delivered while paused or closed."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import pytest

import noria
from support.loops import MODELS, ORACLE, Keeper, pair, run, until


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Buffered(asyncio.BufferedProtocol):
    """Stores received data; its buffer is smaller than most messages."""

    def __init__(self, size: int = 100) -> None:
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.updates = 0
        self.lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.updates += 1
        self.data += self.buffer[:nbytes]

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


class Stopping(Buffered):
    """Pauses reading after each buffer."""

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self.transport.pause_reading()


async def connected(factory: Any) -> tuple[Any, socket.socket]:
    """A protocol of the loop, and the plain socket that is its peer."""
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    peer.settimeout(30)
    _, protocol = await asyncio.get_running_loop().create_connection(factory, sock=mine)
    return protocol, peer


def pattern(size: int) -> bytes:
    return bytes(range(256)) * (size // 256 + 1)


def step(coroutine: Any) -> Any:
    """Run a coroutine that does not wait, synchronously."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it had to wait")


@pytest.mark.parametrize("size", [5_000, 60_000])
def test_sock_recv_within_buffer_updated_leaves_the_delivery_alone(model: str, size: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        other, writer = socket.socketpair()
        other.setblocking(False)
        taken: list[bytes] = []

        class Nested(Buffered):
            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                writer.send(b"#" * 4096)
                taken.append(step(loop.sock_recv(other, 4096)))

        protocol, peer = await connected(Nested)
        # From the second on, large messages take another path.
        for _ in range(4):
            protocol.data.clear()
            data = pattern(size)[:size]
            peer.sendall(data)
            await until(lambda: len(protocol.data) >= size)
            assert bytes(protocol.data) == data
        assert set(taken) == {b"#" * 4096}
        protocol.transport.abort()
        await protocol.lost
        for sock in (peer, other, writer):
            sock.close()

    run(main(), model)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_an_eager_task_within_buffer_updated_receives_elsewhere(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        other, writer = socket.socketpair()
        other.setblocking(False)
        tasks: list[asyncio.Task[bytes]] = []

        class Nested(Buffered):
            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                writer.send(b"#" * 1000)
                tasks.append(loop.create_task(loop.sock_recv(other, 1000)))

        protocol, peer = await connected(Nested)
        data = pattern(3_000)[:3_000]
        peer.sendall(data)
        await until(lambda: len(protocol.data) >= len(data))
        assert bytes(protocol.data) == data
        assert {await task for task in tasks} == {b"#" * 1000}
        protocol.transport.abort()
        await protocol.lost
        for sock in (peer, other, writer):
            sock.close()

    run(main(), model)


def test_pausing_right_after_resuming_is_pausing(model: str) -> None:
    async def main() -> None:
        paused_at: list[int] = []

        class Pausing(Buffered):
            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                if len(self.data) == nbytes:  # the first
                    self.transport.pause_reading()
                    paused_at.append(len(self.data))

        protocol, peer = await connected(Pausing)
        data = pattern(60_000)[:60_000]
        peer.sendall(data)
        await until(lambda: paused_at)
        for _ in range(3):
            protocol.transport.resume_reading()
            protocol.transport.pause_reading()
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(protocol.data) == paused_at[0]
            assert not protocol.transport.is_reading()
        protocol.transport.resume_reading()
        assert protocol.transport.is_reading()
        await until(lambda: len(protocol.data) == len(data))
        assert bytes(protocol.data) == data
        protocol.transport.abort()
        await protocol.lost
        peer.close()

    run(main(), model)


def test_what_is_held_comes_before_what_is_new(model: str) -> None:
    async def main() -> None:
        protocol, peer = await connected(Stopping)
        data = pattern(10_000)[:10_000]
        sent = 0
        while len(protocol.data) < len(data):
            peer.send(data[sent : sent + 700])
            sent = min(sent + 700, len(data))
            before = protocol.updates
            protocol.transport.resume_reading()
            await until(lambda before=before: protocol.updates > before)
            assert protocol.updates == before + 1
        assert bytes(protocol.data) == data
        protocol.transport.abort()
        await protocol.lost
        peer.close()

    run(main(), model)


def test_the_end_of_a_paused_stream_comes_last(model: str) -> None:
    async def main() -> None:
        protocol, peer = await connected(Stopping)
        data = pattern(1_000)[:1_000]
        peer.sendall(data)
        peer.close()
        while not protocol.lost.done():
            protocol.transport.resume_reading()
            await asyncio.sleep(0)
        assert bytes(protocol.data) == data

    run(main(), model)


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_nothing_is_delivered_after_closing(model: str, ending: str) -> None:
    async def main() -> None:
        class Closing(Buffered):
            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                getattr(self.transport, ending)()

        protocol, peer = await connected(Closing)
        peer.sendall(pattern(5_000))
        await protocol.lost
        assert protocol.updates == 1
        peer.close()

    run(main(), model)


def test_another_protocol_takes_over_within_buffer_updated(model: str) -> None:
    """Data that was received before goes to the new protocol, of either kind."""

    async def main() -> None:
        class Changing(Buffered):
            successor: Any = None

            def buffer_updated(self, nbytes: int) -> None:
                super().buffer_updated(nbytes)
                self.successor = Keeper()
                self.successor.connection_made(self.transport)
                self.transport.set_protocol(self.successor)

        protocol, peer = await connected(Changing)
        data = pattern(5_000)[:5_000]
        peer.sendall(data)
        await until(lambda: protocol.successor is not None)
        successor = protocol.successor
        await until(lambda: len(protocol.data) + len(successor.data) == len(data))
        assert bytes(protocol.data + successor.data) == data
        assert protocol.updates == 1
        protocol.transport.abort()
        await successor.lost
        peer.close()

    run(main(), model)


def test_a_protocol_without_data_received_may_write(model: str) -> None:
    class Writing(asyncio.BaseProtocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"written")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports: list[Any] = []
        loop.set_exception_handler(lambda loop, context: reports.append(context["exception"]))
        server = await loop.create_server(Writing, "127.0.0.1", 0)
        _, client = await loop.create_connection(Keeper, *server.sockets[0].getsockname())
        await until(lambda: client.data == b"written")
        assert not reports
        client.transport.write(b"unexpected")
        assert await asyncio.wait_for(client.lost, 10) is None
        assert [type(report) for report in reports] == [AttributeError]
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_a_protocol_that_is_refused_leaves_the_former_one_in_place() -> None:
    async def main() -> None:
        client, keeper, server = await pair()
        with pytest.raises(TypeError):
            keeper.transport.set_protocol(None)  # type: ignore[arg-type]
        client.transport.write(b"data")
        await until(lambda: keeper.data == b"data")
        client.transport.close()
        assert await keeper.lost is None
        server.close()
        await server.wait_closed()

    noria.run(main())
