"""Deferred writes: none is lost, sent late or out of order."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import threading
import time
from typing import Any

import pytest

import noria
from support.loops import MODELS, Keeper, until


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def connect_pairs(count: int) -> list[tuple[Keeper, socket.socket]]:
    """Open connections of the loop; each one's peer is a plain socket."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        mine, peer = socket.socketpair()
        peer.setblocking(False)
        mine.setblocking(False)
        _, keeper = await loop.create_connection(Keeper, sock=mine)
        made.append((keeper, peer))
    return made


def receive_all(peer: socket.socket) -> bytes:
    """Receive what has arrived so far."""
    got = b""
    while True:
        try:
            data = peer.recv(1 << 20)
        except BlockingIOError:
            return got
        if not data:
            return got
        got += data


async def close_all(connections: list[tuple[Keeper, socket.socket]]) -> None:
    for keeper, peer in connections:
        keeper.transport.abort()
        await keeper.lost
        peer.close()


async def write_in_all_ways(seed: int) -> None:
    """Many connections write in one turn, in all ways, some more than the socket takes."""
    odds = random.Random(seed)
    loop = asyncio.get_running_loop()
    connections = await connect_pairs(30)
    wrote = {keeper: bytearray() for keeper, _ in connections}
    came = {keeper: bytearray() for keeper, _ in connections}

    def write(keeper: Keeper) -> None:
        for _ in range(odds.choice((0, 1, 1, 1, 2, 3))):
            size = odds.choice((1, 100, 4096, 5000, 20_000, 300_000))
            data = odds.randbytes(min(size, 999)) * (size // min(size, 999))
            buffer = bytearray(data)
            way = odds.randrange(6)
            if way == 0:
                keeper.transport.writelines([data[:7], buffer, data[7:]])
                wrote[keeper] += data[:7] + data + data[7:]
                continue
            keeper.transport.write((data, data, data, buffer, memoryview(buffer))[way - 1])
            # The caller may reuse its buffer.
            buffer[:] = bytes(len(buffer))
            wrote[keeper] += data

    def read_all() -> bool:
        for keeper, peer in connections:
            came[keeper] += receive_all(peer)
        return all(len(came[keeper]) == len(wrote[keeper]) for keeper in wrote)

    for _ in range(20):
        for keeper, _ in connections:
            loop.call_soon(write, keeper)
        await asyncio.sleep(0)
        if odds.random() < 0.5:
            await until(read_all)
    await until(read_all)
    assert came == wrote
    await close_all(connections)


@pytest.mark.parametrize("seed", range(5))
def test_writes_of_many_in_a_turn_arrive_complete_and_in_order(model: str, seed: int) -> None:
    noria.run(write_in_all_ways(seed), model=model)


@pytest.mark.parametrize("end", ["close", "abort", "write_eof"])
def test_an_end_in_the_turn_of_the_write_comes_after_it(model: str, end: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        connections = await connect_pairs(20)
        sizes: list[int] = []

        def write_and_end(keeper: Keeper) -> None:
            keeper.transport.write(b"last words")
            getattr(keeper.transport, end)()
            sizes.append(keeper.transport.get_write_buffer_size())

        for keeper, _ in connections:
            loop.call_soon(write_and_end, keeper)
        for keeper, peer in connections:
            peer.setblocking(True)
            peer.settimeout(10)
            said = b""
            while data := await asyncio.to_thread(peer.recv, 100):
                said += data
            assert said == b"last words"
            assert sizes == [0] * len(connections)
            if end != "write_eof":
                assert await keeper.lost is None
        if end == "write_eof":
            await close_all(connections)
        else:
            for _, peer in connections:
                peer.close()

    noria.run(main(), model=model)


# Sends requests from another process, so that only the sockets wake the loop.
REQUESTS = """
import socket, sys
for _ in range(5):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as s:
        s.sendall(b"x" * int(sys.argv[2]))
        s.shutdown(socket.SHUT_WR)
        got = 0
        while data := s.recv(1 << 16):
            got += len(data)
        assert got == int(sys.argv[2]) * int(sys.argv[3]), got
"""


class Multiplier(asyncio.Protocol):
    """Replies to each byte with many; closes at the peer's end of file."""

    times = 1

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data * self.times)


@pytest.mark.parametrize(("size", "times"), [(1, 1), (1, 10_000), (15_000, 1), (1000, 300)])
def test_an_answer_and_its_end_need_nothing_else_to_happen(
    model: str, size: int, times: int
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol = type("Protocol", (Multiplier,), {"times": times})
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        words = [sys.executable, "-c", REQUESTS, str(port), str(size), str(times)]
        process = await asyncio.create_subprocess_exec(*words)
        assert await process.wait() == 0
        server.close()

    noria.run(main(), model=model)


async def small_buffers() -> tuple[Keeper, socket.socket]:
    """A connection whose socket buffer is very small."""
    loop = asyncio.get_running_loop()
    mine, peer = socket.socketpair()
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    mine.setblocking(False)
    _, keeper = await loop.create_connection(Keeper, sock=mine)
    return keeper, peer


def test_a_deferred_write_to_a_full_socket_is_sent_when_it_is_writable(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        connections = [await small_buffers() for _ in range(4)]
        received = loop.create_future()

        def read_slowly() -> None:
            got = []
            for _, peer in connections:
                peer.settimeout(20)
                data = b""
                while len(data) < 12_000:
                    data += peer.recv(1000)
                got.append(data)
            loop.call_soon_threadsafe(received.set_result, got)

        for number, (keeper, _) in enumerate(connections):
            loop.call_soon(keeper.transport.write, b"%d" % number * 12_000)
        thread = threading.Thread(target=read_slowly)
        loop.call_soon(thread.start)
        # Until then only the sockets wake the loop.
        got = await received
        thread.join()
        assert got == [b"%d" % number * 12_000 for number in range(4)]
        await close_all(connections)

    noria.run(main(), model=model)


def test_a_loop_that_is_never_idle_holds_nothing_for_long(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        connections = await connect_pairs(2)
        turns: list[int] = []
        done = loop.create_future()

        def step(turn: int) -> None:
            if receive_all(connections[0][1]):
                done.set_result(turn)
            elif turn < 100:
                loop.call_soon(step, turn + 1)
            else:
                done.set_result(turn)

        def write() -> None:
            connections[0][0].transport.write(b"now")

        loop.call_soon(write)
        loop.call_soon(step, 0)
        turns.append(await done)
        # It arrives in the turn after the write.
        assert turns == [1]
        await close_all(connections)

    noria.run(main(), model=model)


def test_the_first_write_does_not_wait_for_all_slow_handlers(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        connections = await connect_pairs(40)
        seen: list[int] = []

        def slow(number: int) -> None:
            connections[number][0].transport.write(b"done")
            if not seen and receive_all(connections[0][1]):
                seen.append(number)
            # longer than a tick of the coarse clock
            time.sleep(0.012)

        for number in range(len(connections)):
            loop.call_soon(slow, number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert seen, "nothing was sent before the last handler had run"
        assert seen[0] < 10
        await close_all(connections)

    noria.run(main(), model=model)


def test_a_peer_that_closes_while_a_write_is_deferred(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        connections = await connect_pairs(10)

        def write(keeper: Keeper, peer: socket.socket) -> None:
            keeper.transport.write(b"to nobody")
            peer.close()

        for keeper, peer in connections:
            loop.call_soon(write, keeper, peer)
        errors = [await asyncio.wait_for(keeper.lost, 10) for keeper, _ in connections]
        assert all(error is None or isinstance(error, OSError) for error in errors)

    noria.run(main(), model=model)


def test_what_is_held_is_no_backlog(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        connections = await connect_pairs(3)
        sizes: list[Any] = []

        def write(keeper: Keeper) -> None:
            keeper.transport.set_write_buffer_limits(0)
            keeper.transport.write(b"a little")
            sizes.append(keeper.transport.get_write_buffer_size())

        for keeper, _ in connections:
            loop.call_soon(write, keeper)
        await asyncio.sleep(0)
        assert sizes == [0, 0, 0]
        for _, peer in connections:
            await until(lambda peer=peer: receive_all(peer) == b"a little")  # type: ignore[misc]
        await close_all(connections)

    noria.run(main(), model=model)


@pytest.mark.parametrize("way", ["write", "writelines"])
def test_what_pause_writing_writes_comes_behind_what_led_to_it(model: str, way: str) -> None:
    async def main() -> None:
        class Answering(Keeper):
            def pause_writing(self) -> None:
                self.transport.write(b"<paused>")

        loop = asyncio.get_running_loop()
        mine, peer = socket.socketpair()
        peer.setblocking(False)
        _, protocol = await loop.create_connection(Answering, sock=mine)
        # After two writes in a turn, the connection's next writes are corked.
        for _ in range(3):
            protocol.transport.write(b"-")
            protocol.transport.write(b"-")
            await asyncio.sleep(0)
        filler = mine.dup()
        # The socket is full, which the transport does not know yet.
        for size in (10_000, 1):
            try:
                while True:
                    filler.send(b"." * size, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
        filler.close()
        protocol.transport.set_write_buffer_limits(high=10)
        protocol.transport.write(b"first")
        if way == "write":
            protocol.transport.write(bytes(20_000) + b"second")
        else:
            protocol.transport.writelines([bytes(20_000), b"second"])
        got = bytearray()
        while not got.endswith(b">"):
            got += receive_all(peer)
            await asyncio.sleep(0)
        assert bytes(got.lstrip(b"-.")) == b"first" + bytes(20_000) + b"second<paused>"
        protocol.transport.abort()
        await protocol.lost
        peer.close()

    noria.run(main(), model=model)


@pytest.mark.parametrize("before", ["one write", "two writes", "eof"])
def test_a_protocol_that_writes_and_then_raises_does_not_lose_its_data(
    model: str, before: str
) -> None:
    class Raises(Keeper):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"answer ")
            if before != "one write":
                self.transport.write(b"and more ")
            if data == b"bad":
                raise ValueError(data)

        def eof_received(self) -> bool:
            self.data_received(b"bad")
            return False

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reports: list[str] = []
        loop.set_exception_handler(lambda loop, context: reports.append(str(context["exception"])))
        protocols: list[Raises] = []
        peers = []
        answer = b"answer " if before == "one write" else b"answer and more "
        for _ in range(8):
            mine, peer = socket.socketpair()
            peer.setblocking(False)
            _, protocol = await loop.create_connection(Raises, sock=mine)
            protocols.append(protocol)
            peers.append(peer)
        # With two writes in a turn, those of the later turns are corked.
        for _ in range(2):
            for peer in peers:
                peer.send(b"good")
            for peer in peers:
                await until(lambda peer=peer: receive_all(peer) == answer)  # type: ignore[misc]
        for peer in peers:
            if before == "eof":
                peer.shutdown(socket.SHUT_WR)
            else:
                peer.send(b"bad")
        for protocol, peer in zip(protocols, peers, strict=True):
            assert isinstance(await asyncio.wait_for(protocol.lost, 10), ValueError)
            assert receive_all(peer) == answer
            peer.close()
        assert len(reports) == len(peers)

    noria.run(main(), model=model)


def test_limits_below_the_size_of_corked_data_do_not_pause_the_protocol(model: str) -> None:
    class Recording(Keeper):
        paused = 0

        def pause_writing(self) -> None:
            self.paused += 1

        def resume_writing(self) -> None:
            pass

    async def main() -> None:
        mine, peer = socket.socketpair()
        _, protocol = await asyncio.get_running_loop().create_connection(Recording, sock=mine)
        for _ in range(3):
            protocol.transport.set_write_buffer_limits(high=100)
            for _ in range(3):
                protocol.transport.write(b"x" * 50)
            protocol.transport.set_write_buffer_limits(high=10)
            await asyncio.sleep(0)
        assert protocol.paused == 0
        protocol.transport.abort()
        await protocol.lost
        peer.close()

    noria.run(main(), model=model)
