"""Sockets that the caller passes in with `sock=` and closes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

import noria
from support.loops import MODELS, ORACLE, Keeper, run, until


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def numbers() -> Iterator[list[int]]:
    """Descriptors that a test opened with the numbers of those that it closed."""
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


async def connected() -> tuple[socket.socket, Any, socket.socket]:
    mine, peer = socket.socketpair()
    mine.setblocking(False)
    peer.setblocking(False)
    _, keeper = await asyncio.get_running_loop().create_connection(Keeper, sock=mine)
    return mine, keeper, peer


def close_and_reuse(sock: socket.socket, numbers: list[int]) -> tuple[int, int]:
    """Close the socket; its number becomes the writing end of a pipe. Returns (reader, writer)."""
    number = sock.fileno()
    reader, writer = os.pipe()
    sock.close()
    os.dup2(writer, number)
    os.close(writer)
    os.set_blocking(reader, False)
    numbers += [reader, number]
    return reader, number


def is_empty(reader: int) -> bool:
    try:
        return not os.read(reader, 100)
    except BlockingIOError:
        return True


@pytest.mark.parametrize("ending", ["abort", "close"])
def test_a_transport_closes_no_descriptor_but_its_own(
    model: str, ending: str, numbers: list[int]
) -> None:
    async def main() -> None:
        mine, keeper, peer = await connected()
        _, number = close_and_reuse(mine, numbers)
        getattr(keeper.transport, ending)()
        await keeper.lost
        await asyncio.sleep(0)
        # raises if it is not open
        os.fstat(number)
        peer.close()

    run(main(), model)


@pytest.mark.parametrize("way", ["write", "writelines"])
def test_a_transport_writes_to_no_descriptor_but_its_own(
    model: str, way: str, numbers: list[int]
) -> None:
    async def main() -> None:
        mine, keeper, peer = await connected()
        reader, number = close_and_reuse(mine, numbers)
        if way == "write":
            keeper.transport.write(b"secret")
        else:
            keeper.transport.writelines([b"sec", b"ret"])
        error = await keeper.lost
        assert isinstance(error, OSError)
        assert is_empty(reader)
        os.fstat(number)
        peer.close()

    run(main(), model)


def test_a_write_that_is_held_goes_nowhere_else(model: str, numbers: list[int]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mine, keeper, peer = await connected()
        readers: list[int] = []

        def write_and_close() -> None:
            keeper.transport.write(b"secret")
            readers.append(close_and_reuse(mine, numbers)[0])

        loop.call_soon(write_and_close)
        # While other events wait for their handlers, a write may be deferred.
        loop.call_soon(int)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert is_empty(readers[0])
        keeper.transport.abort()
        await keeper.lost
        peer.close()

    run(main(), model)


def test_datagrams_go_to_no_descriptor_but_their_own(model: str, numbers: list[int]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        errors: list[Exception] = []

        class Datagrams(asyncio.DatagramProtocol):
            def error_received(self, exc: Exception) -> None:
                errors.append(exc)

        mine, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        mine.setblocking(False)
        transport, _ = await loop.create_datagram_endpoint(Datagrams, sock=mine)
        other, stranger = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        number = mine.fileno()
        mine.close()
        os.dup2(other.fileno(), number)
        numbers.append(number)
        stranger.setblocking(False)
        transport.sendto(b"secret")
        with pytest.raises(BlockingIOError):
            stranger.recv(100)
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        os.fstat(number)
        for sock in (peer, other, stranger):
            sock.close()

    run(main(), model)


# Classes and functions that programs and their tests replace.


def test_overridden_methods_of_a_socket_are_called(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: set[str] = set()

        class Noting(socket.socket):
            def recv(self, *args: Any) -> bytes:
                calls.add("recv")
                return super().recv(*args)

            def send(self, *args: Any) -> int:
                calls.add("send")
                return super().send(*args)

        mine, peer = socket.socketpair()
        noting = Noting(fileno=mine.detach())
        noting.setblocking(False)
        transport, keeper = await loop.create_connection(Keeper, sock=noting)
        transport.write(b"there")
        assert peer.recv(10) == b"there"
        peer.send(b"back")
        await until(lambda: keeper.data == b"back")
        assert calls == {"recv", "send"}
        transport.close()
        await keeper.lost
        peer.close()

    run(main(), model)


def test_a_patched_sendto_is_called(model: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with mock.patch.object(socket.socket, "sendto", return_value=4) as sendto:
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
            )
            transport.sendto(b"data", ("127.0.0.1", 9))
        sendto.assert_called_once_with(b"data", ("127.0.0.1", 9))
        transport.close()
        await asyncio.sleep(0)

    run(main(), model)


def test_get_extra_info_is_that_of_the_base_class(model: str) -> None:
    async def main() -> None:
        _, keeper, peer = await connected()
        assert keeper.transport.get_extra_info("socket").fileno() >= 0
        assert keeper.transport.get_extra_info("nothing", "default") == "default"
        with mock.patch.object(asyncio.BaseTransport, "get_extra_info", return_value="patched"):
            assert keeper.transport.get_extra_info("socket") == "patched"
        keeper.transport.abort()
        await keeper.lost
        peer.close()

    run(main(), model)


def test_transports_have_asyncios_attributes(model: str) -> None:
    async def main() -> None:
        mine, keeper, peer = await connected()
        assert keeper.transport._sock is mine
        assert not keeper.transport._closing
        assert not keeper.transport._paused
        keeper.transport.pause_reading()
        assert keeper.transport._paused
        keeper.transport.abort()
        assert keeper.transport._closing
        await keeper.lost
        peer.close()

    run(main(), model)


def test_noria_in_the_place_of_asyncios_class() -> None:
    with mock.patch.object(asyncio, "SelectorEventLoop", noria.aio.EventLoop):
        loop = asyncio.SelectorEventLoop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
