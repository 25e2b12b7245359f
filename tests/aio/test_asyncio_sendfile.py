"""sendfile on the asyncio loop whose transport or socket ends before the file is sent."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import select
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from support.loops import MODELS, Keeper, client_context, reset, run, server_context, until

# bytes; more than the socket buffers of both ends
SIZE = 64 << 20


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[IO[bytes]]:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, SIZE)
    with path.open("rb") as opened:
        yield opened


@contextlib.asynccontextmanager
async def peer_that_reads_nothing() -> AsyncIterator[tuple[Keeper, socket.socket]]:
    """A transport's protocol, and the other end's socket."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, keeper = await loop.create_connection(Keeper, *listener.getsockname())
        peer, _ = listener.accept()
    try:
        yield keeper, peer
    finally:
        peer.close()
        keeper.transport.abort()
        await keeper.lost


def has_room(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


async def stalled(fd: int) -> None:
    """Wait until the descriptor was not writable for some turns of the loop."""
    turns = 0
    while turns < 20:
        turns = 0 if has_room(fd) else turns + 1
        await asyncio.sleep(0.001)


def receive_all(peer: socket.socket) -> int:
    """Receive until the end of file; return the number of bytes."""
    got = 0
    peer.settimeout(20)
    with contextlib.suppress(ConnectionResetError):
        while data := peer.recv(1 << 20):
            got += len(data)
    return got


@pytest.mark.parametrize("end", ["abort", "close"])
def test_sendfile_of_a_transport_that_is_closed_raises(
    model: str, file: IO[bytes], end: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with peer_that_reads_nothing() as (keeper, peer):
            transport = keeper.transport
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await stalled(transport.get_extra_info("socket").fileno())
            assert not sending.done()
            getattr(transport, end)()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(sending, 10)
            assert await keeper.lost is None
            # The peer has received the start of the file, and then the end of file.
            got = await loop.run_in_executor(None, receive_all, peer)
            assert 0 < got < SIZE
        # The loop still works.
        async with peer_that_reads_nothing() as (keeper, peer):
            keeper.transport.write(b"more")
            assert await loop.run_in_executor(None, peer.recv, 10) == b"more"

    run(main(), model)


def test_sendfile_whose_socket_is_closed_behind_the_transport_raises_once_it_is_aborted(
    model: str, file: IO[bytes]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with peer_that_reads_nothing() as (keeper, _):
            transport = keeper.transport
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await stalled(transport.get_extra_info("socket").fileno())
            transport.get_extra_info("socket")._sock.close()
            await asyncio.sleep(0)
            transport.abort()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(sending, 10)

    run(main(), model)


def test_sendfile_to_a_peer_that_resets_raises(model: str, file: IO[bytes]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with peer_that_reads_nothing() as (keeper, peer):
            sending = asyncio.create_task(loop.sendfile(keeper.transport, file))
            await stalled(keeper.transport.get_extra_info("socket").fileno())
            reset(peer)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(sending, 10)
            assert isinstance(await keeper.lost, ConnectionError)

    run(main(), model)


@pytest.mark.parametrize("before", [0, SIZE], ids=["at once", "behind a large write"])
def test_sendfile_that_is_cancelled_leaves_a_transport_that_writes(
    model: str, file: IO[bytes], before: int
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with peer_that_reads_nothing() as (keeper, peer):
            transport = keeper.transport
            transport.write(bytes(before))
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await stalled(transport.get_extra_info("socket").fileno())
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert transport.is_reading()
            transport.write(b"end")
            transport.write_eof()
            tail = b""
            got = 0

            def receive() -> None:
                nonlocal got, tail
                while data := peer.recv(1 << 20):
                    got += len(data)
                    tail = (tail + data)[-3:]

            await loop.run_in_executor(None, receive)
            assert tail == b"end"
            assert got >= before + 3
            peer.sendall(b"answer")
            await until(lambda: keeper.data == b"answer")

    run(main(), model)


@pytest.mark.parametrize("kind", ["no regular file", "tls"])
def test_sendfile_without_the_system_call_raises_when_the_transport_is_aborted(
    model: str, file: IO[bytes], kind: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        def accept() -> Keeper:
            accepted.set_result(Keeper())
            return accepted.result()

        secure = kind == "tls"
        server = await loop.create_server(
            accept, "127.0.0.1", 0, ssl=server_context() if secure else None
        )
        options: dict[str, Any] = {}
        if secure:
            options = {"ssl": client_context(), "server_hostname": "localhost"}
        _, keeper = await loop.create_connection(
            Keeper, *server.sockets[0].getsockname(), **options
        )
        peer = await accepted
        await peer.made
        peer.transport.pause_reading()
        what: Any = file if secure else io.BytesIO(bytes(SIZE))
        sending = asyncio.create_task(loop.sendfile(keeper.transport, what))
        await stalled(keeper.transport.get_extra_info("socket").fileno())
        keeper.transport.abort()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, 10)
        await keeper.lost
        peer.transport.abort()
        await peer.lost
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_sock_sendfile_of_a_socket_that_is_closed_raises(model: str, file: IO[bytes]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # select and poll report the closed descriptor
        here, there = socket.socketpair()
        here.setblocking(False)
        with here, there:
            sending = asyncio.create_task(loop.sock_sendfile(here, file))
            await stalled(here.fileno())
            number = here.fileno()
            here.close()
            # Another file with the number receives nothing, and its writer stays registered.
            with socket.socket() as other:
                assert other.fileno() == number
                with pytest.raises(ConnectionError):
                    await asyncio.wait_for(sending, 10)
            assert 0 < receive_all(there) < SIZE

    run(main(), model)


def test_sock_sendfile_that_is_cancelled_watches_nothing(model: str, file: IO[bytes]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        here.setblocking(False)
        with here, there:
            sending = asyncio.create_task(loop.sock_sendfile(here, file))
            await stalled(here.fileno())
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert not loop.remove_writer(here)

    run(main(), model)


@pytest.mark.parametrize("of", ["transport", "socket"])
@pytest.mark.parametrize("fallback", [False, True])
def test_the_position_is_the_offset_when_nothing_is_left_to_send(
    model: str, file: IO[bytes], of: str, fallback: bool
) -> None:
    """As asyncio from Python 3.14 on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        file.seek(123)
        async with peer_that_reads_nothing() as (keeper, _):
            if of == "transport":
                sent = await loop.sendfile(keeper.transport, file, SIZE, fallback=fallback)
            else:
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    ours.setblocking(False)
                    sent = await loop.sock_sendfile(ours, file, SIZE, fallback=fallback)
        assert sent == 0
        assert file.tell() == SIZE

    run(main(), model)
