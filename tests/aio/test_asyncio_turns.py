"""Data that the kernel has at the start of a turn is delivered in that turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from support.loops import MODELS, ORACLE, Keeper, run


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def connected() -> tuple[Any, socket.socket]:
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    _, keeper = await asyncio.get_running_loop().create_connection(Keeper, sock=mine)
    return keeper, peer


def test_a_transport_has_what_arrived_before_the_turn(model: str) -> None:
    async def main() -> None:
        keeper, peer = await connected()
        await asyncio.sleep(0)
        for number in range(20):
            peer.send(b"x")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert len(keeper.data) == number + 1
        keeper.transport.abort()
        await keeper.lost
        peer.close()

    run(main(), model)


def test_a_reader_is_called_in_the_next_turn(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mine, peer = socket.socketpair()
        mine.setblocking(False)
        got: list[bytes] = []
        loop.add_reader(mine, lambda: got.append(mine.recv(10)))
        for number in range(20):
            peer.send(b"%d" % number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert got[-1] == b"%d" % number
        loop.remove_reader(mine)
        mine.close()
        peer.close()

    run(main(), model)


def test_streams_exchange_in_a_few_turns(model: str) -> None:
    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"first")
        assert await reader.read(100) == b"first"
        for _ in range(10):
            writer.write(b"again")
            answer = asyncio.ensure_future(reader.read(100))
            # wake, read, write; there and back
            for _ in range(8):
                await asyncio.sleep(0)
            assert answer.done()
            assert answer.result() == b"again"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_a_chain_of_calls_polls_again_once_there_is_io(model: str) -> None:
    """After many turns without I/O the loop may skip polls; its own I/O ends that."""

    async def main() -> None:
        keeper, peer = await connected()
        for _ in range(2_000):
            await asyncio.sleep(0)
        keeper.transport.write(b"request")
        assert peer.recv(100) == b"request"
        peer.send(b"answer")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert keeper.data == b"answer"
        keeper.transport.abort()
        await keeper.lost
        peer.close()

    run(main(), model)


def test_a_cancelled_connect_has_closed_its_socket_two_turns_later(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            mine, peer = socket.socketpair()
            mine.setblocking(False)
            peer.setblocking(False)
            task = loop.create_task(loop.create_connection(Keeper, sock=mine))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert mine.fileno() == -1
            assert peer.recv(1) == b""
            peer.close()

    run(main(), model)


def wait_for_exit(pid: int) -> None:
    """Block until the process has exited, without reaping it."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.001)


def test_all_pipes_of_a_process_give_their_data_before_one_is_lost(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            events: list[tuple[str, int]] = []
            exited = loop.create_future()

            class Process(asyncio.SubprocessProtocol):
                def pipe_data_received(self, fd: int, data: bytes, events: Any = events) -> None:
                    events.append(("data", fd))

                def pipe_connection_lost(
                    self, fd: int, exc: Exception | None, events: Any = events
                ) -> None:
                    events.append(("lost", fd))

                def connection_lost(self, exc: Exception | None, exited: Any = exited) -> None:
                    exited.set_result(None)

            transport, _ = await loop.subprocess_exec(
                Process, "/bin/sh", "-c", "read line; echo out; echo error >&2"
            )
            transport.get_pipe_transport(0).write(b"\n")  # type: ignore[union-attr]
            # The loop sees all output of the process at once.
            wait_for_exit(transport.get_pid())
            await exited
            transport.close()
            # the events of the two outputs
            events = [event for event in events if event[1]]
            assert sorted(events[:2]) == [("data", 1), ("data", 2)]
            assert sorted(events[2:]) == [("lost", 1), ("lost", 2)]

    run(main(), model)


@pytest.mark.parametrize("ending", ["abort", "close"])
@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_a_socket_is_closed_in_the_turn_of_connection_lost(
    model: str, kind: str, ending: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        type_ = socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM
        mine, peer = socket.socketpair(socket.AF_UNIX, type_)
        mine.setblocking(False)
        transport: Any
        if kind == "stream":
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=mine)
        else:
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=mine)
        await asyncio.sleep(0)
        getattr(transport, ending)()
        await asyncio.sleep(0)
        assert mine.fileno() == -1
        peer.close()

    run(main(), model)


def test_the_end_of_a_stream_comes_in_a_later_turn_than_its_data(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(5):
            turns: list[str] = []

            class Noting(Keeper):
                def data_received(self, data: bytes, turns: list[str] = turns) -> None:
                    super().data_received(data)
                    loop.call_soon(turns.append, "next")

                def eof_received(self, turns: list[str] = turns) -> bool:
                    turns.append("eof")
                    return False

            mine, peer = socket.socketpair()
            mine.setblocking(False)
            _, keeper = await loop.create_connection(Noting, sock=mine)
            peer.send(b"data")
            peer.close()
            await keeper.lost
            assert keeper.data == b"data"
            assert turns == ["next", "eof"]

    run(main(), model)
