"""Stream readers and writers, asyncio's and noria's: each read returns exactly the bytes sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import noria
from support.fuzz.harness import LIMIT, fuzz, run_checked
from support.loops import client_context, server_context

LIMITS = (1, 10, 100, 5000, 65536)
SIZES = (0, 1, 50, 2000, 60_000)
SEPARATORS = (b"\n", b"b", b"ab", b"\n\n", b"abab\n")

Modules = {"asyncio": asyncio, "noria": noria}


def some_text(rng: random.Random) -> bytes:
    """Return bytes in which separators are frequent, rare or missing."""
    letters = rng.choice((b"ab\n", b"abcdefgh\n" * 3 + b"x" * 300, b"abcd"))
    return bytes(rng.choices(letters, k=rng.choice(SIZES)))


class Reading:
    """Reads a stream with known bytes until EOF."""

    def __init__(
        self, reader: asyncio.StreamReader, expected: bytes, limit: int, rng: random.Random
    ) -> None:
        self.reader, self.expected, self.limit, self.rng = reader, expected, limit, rng
        self.at = 0
        self.ended = False

    @property
    def rest(self) -> int:
        return len(self.expected) - self.at

    def take(self, data: bytes) -> None:
        """Check that the returned bytes are the next ones of the stream."""
        wanted = self.expected[self.at : self.at + len(data)]
        assert data == wanted, f"at {self.at}: {data[:50]!r} instead of {wanted[:50]!r}"
        self.at += len(data)

    def take_rest(self, error: asyncio.IncompleteReadError, size: int | None) -> None:
        """Check the partial data of a stream that ended before `size` bytes or a separator."""
        assert error.expected == size
        assert size is None or size > self.rest
        assert len(error.partial) == self.rest
        self.take(error.partial)
        self.ended = True

    def find(self, separator: bytes) -> tuple[int, bool]:
        """Return the distance to the separator (-1: none), and whether it exceeds the limit."""
        found = self.expected.find(separator, self.at)
        if found < 0:
            return -1, self.rest + 1 - len(separator) > self.limit
        return found - self.at, found - self.at > self.limit

    async def run(self) -> None:
        ways: list[Callable[[], Awaitable[None]]] = [
            *[self.read] * 4,
            *[self.read_exactly, self.read_until, self.read_line] * 3,
            self.cancel_a_read,
            self.read_rest,
        ]
        while not self.ended:
            way = self.rng.choice(ways)
            if way == self.read_rest and self.rng.random() < 0.9:
                continue
            await way()
            if self.rng.random() < 0.1:
                await asyncio.sleep(0)
        assert self.rest == 0, f"EOF {self.rest} bytes early"
        assert self.reader.at_eof()

    async def read(self) -> None:
        size = self.rng.choice((0, 1, 10, 1000, 100_000))
        data = await self.reader.read(size)
        assert len(data) <= size
        self.take(data)
        self.ended = size > 0 and not data

    async def read_rest(self) -> None:
        self.take(await self.reader.read(-1))
        assert self.rest == 0
        self.ended = True

    async def read_exactly(self) -> None:
        size = self.rng.choice((0, 1, 10, 1000, 50_000))
        try:
            data = await self.reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            self.take_rest(error, size)
        else:
            assert len(data) == size
            self.take(data)

    async def read_until(self) -> None:
        separator = self.rng.choice(SEPARATORS)
        distance, forbidden = self.find(separator)
        try:
            data = await self.reader.readuntil(separator)
            assert not forbidden
            assert len(data) == distance + len(separator)
            self.take(data)
        except asyncio.LimitOverrunError as error:
            assert forbidden
            consumed = error.consumed
            assert 0 < consumed <= (distance if distance >= 0 else self.rest)
            self.take(await self.reader.readexactly(consumed))
        except asyncio.IncompleteReadError as error:
            assert distance < 0
            assert not forbidden
            self.take_rest(error, None)

    async def read_line(self) -> None:
        distance, forbidden = self.find(b"\n")
        if forbidden:
            return  # how much a failed readline discards depends on how the bytes arrived
        data = await self.reader.readline()
        assert len(data) == (self.rest if distance < 0 else distance + 1)
        self.take(data)
        self.ended = not data

    async def cancel_a_read(self) -> None:
        """Check that a cancelled read consumes nothing and that a concurrent read raises."""
        size = self.rest + self.rng.choice((1, 1000))
        task = asyncio.ensure_future(self.reader.readexactly(size))
        for _ in range(self.rng.randrange(1, 4)):
            await asyncio.sleep(0)
        if not task.done():
            if getattr(self.reader, "_waiter", None) is not None:
                await self.be_refused(size)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        except asyncio.IncompleteReadError as error:
            self.take_rest(error, size)

    async def be_refused(self, size: int) -> None:
        with pytest.raises(RuntimeError, match="already waiting"):
            await self.reader.readexactly(size)


async def write_all(writer: asyncio.StreamWriter, data: bytes, rng: random.Random) -> None:
    """Write the bytes in random pieces."""
    view = memoryview(data)
    while view:
        size = rng.choice((1, 7, 500, 8000, 70_000))
        piece, view = view[:size], view[size:]
        way = rng.randrange(3)
        if way == 0:
            writer.write(bytes(piece))
        elif way == 1 or len(piece) < 4:  # asyncio's transport never removes an empty buffer
            writer.write(piece)
        else:
            writer.writelines([bytes(piece[:3]), bytes(piece[3:])])
        if rng.random() < 0.5:
            await writer.drain()
        if rng.random() < 0.2:
            await asyncio.sleep(rng.choice((0, 0.0003)))


async def play_connection(module: Any, rng: random.Random, tls: bool) -> None:
    """Run one connection: both sides write and read concurrently until both reach EOF."""
    limit = rng.choice(LIMITS)
    to_server = b"" if tls else some_text(rng)
    to_client = some_text(rng)
    served = asyncio.get_running_loop().create_future()
    dice = random.Random(rng.random())

    async def serve(reader: Any, writer: Any) -> None:
        try:
            work = [write_all(writer, to_client, dice)]
            if not tls:
                work.append(Reading(reader, to_server, limit, dice).run())
            await asyncio.gather(*work)
            writer.close()
            await writer.wait_closed()
            served.set_result(None)
        except BaseException as error:
            served.set_exception(error)
            writer.transport.abort()

    options: dict[str, Any] = {"ssl": server_context()} if tls else {}
    server = await module.start_server(serve, "127.0.0.1", 0, limit=limit, **options)
    options = {"ssl": client_context(), "server_hostname": "localhost"} if tls else {}
    address = server.sockets[0].getsockname()
    reader, writer = await module.open_connection(*address, limit=limit, **options)

    async def write() -> None:
        await write_all(writer, to_server, rng)
        if not tls:
            writer.write_eof()

    try:
        await asyncio.gather(write(), Reading(reader, to_client, limit, rng).run())
        writer.close()
        await writer.wait_closed()
        await served
    finally:
        writer.transport.abort()
        server.close()
        await server.wait_closed()
        if served.done() and not served.cancelled():
            served.exception()  # the client's exception is raised


@pytest.mark.parametrize("streams", Modules)
def test_streams_give_what_was_written(model: str, streams: str) -> None:
    def one(rng: random.Random) -> None:
        async def main() -> None:
            async with asyncio.timeout(LIMIT):
                for _ in range(2):
                    await play_connection(Modules[streams], rng, rng.random() < 0.2)

        run_checked(main, model)

    fuzz(one, 8, 300)
