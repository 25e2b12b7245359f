"""noria's compiled stream readers and writers, on noria's loops and on asyncio's own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import noria
import noria.aio.streams

LOOPS = ("asyncio", "select", "poll", "epoll", "epoll-edge", "io_uring")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "asyncio":
        return asyncio.run
    return lambda main: noria.run(main, model=request.param)


@contextlib.asynccontextmanager
async def served(
    handler: Any, **options: Any
) -> AsyncIterator[tuple[noria.StreamReader, noria.StreamWriter]]:
    """A client of a server that calls this handler for each connection."""
    server = await noria.start_server(handler, "127.0.0.1", 0, **options)
    host, port = server.sockets[0].getsockname()[:2]
    reader, writer = await noria.open_connection(host, port, **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


async def echo(reader: noria.StreamReader, writer: noria.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_they_are_asyncios_own(run: Run) -> None:
    async def main() -> None:
        kinds = []

        async def handler(reader: Any, writer: Any) -> None:
            kinds.append((type(reader), type(writer)))
            await echo(reader, writer)

        async with served(handler) as (reader, writer):
            assert isinstance(reader, asyncio.StreamReader)
            assert isinstance(writer, asyncio.StreamWriter)
            writer.write(b"x")
            assert await reader.read(1) == b"x"
        assert kinds == [(noria.StreamReader, noria.StreamWriter)]
        # asyncio's classes are not replaced without install(streams=True).
        assert asyncio.StreamReader is not noria.StreamReader

    run(main())


def test_every_way_of_reading(run: Run) -> None:
    async def main() -> None:
        async with served(echo) as (reader, writer):
            writer.writelines([b"line\n", b"two\r\n\r\n", bytearray(b"12345"), memoryview(b"rest")])
            await writer.drain()
            assert await reader.readline() == b"line\n"
            assert await reader.readuntil(b"\r\n\r\n") == b"two\r\n\r\n"
            assert await reader.readexactly(5) == b"12345"
            writer.write_eof()
            assert await reader.read(0) == b""
            assert await reader.read() == b"rest"
            assert reader.at_eof()
            assert await reader.readline() == b""
            with pytest.raises(asyncio.IncompleteReadError):
                await reader.readexactly(1)

    run(main())


def test_the_same_as_asyncios_for_any_pieces() -> None:
    """asyncio's and noria's reader return the same, also at end of file and above the limit."""

    async def reads(kind: Any, seed: int) -> list[Any]:
        dice = random.Random(seed)
        reader = kind(limit=32, loop=asyncio.get_running_loop())
        outcomes: list[Any] = []

        async def consume() -> None:
            while len(outcomes) < 60:
                choice = dice.randrange(5)
                n = dice.randrange(1, 40)
                separator = dice.choice([b"\n", b"ab", b"\r\n", b"aab"])
                try:
                    if choice == 0:
                        outcomes.append(await reader.read(n))
                    elif choice == 1:
                        outcomes.append(await reader.readexactly(n))
                    elif choice == 2:
                        outcomes.append(await reader.readline())
                    elif choice == 3:
                        outcomes.append(await reader.readuntil(separator))
                    else:
                        outcomes.append((reader.at_eof(), len(reader._buffer)))
                except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as e:
                    outcomes.append((type(e), str(e)))
                    if isinstance(e, asyncio.LimitOverrunError):
                        outcomes.append(await reader.read(e.consumed))

        task = asyncio.ensure_future(consume())
        feeder = random.Random(seed + 1)
        for _ in range(80):
            length = feeder.randrange(1, 30)
            reader.feed_data(bytes(feeder.choice(b"aaabb\r\nc") for _ in range(length)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        reader.feed_eof()
        await task
        return outcomes

    async def main() -> None:
        for seed in range(100):
            theirs = await reads(asyncio.StreamReader, seed)
            assert await reads(noria.StreamReader, seed) == theirs, seed

    asyncio.run(main())


def test_a_slow_reader_holds_back_the_sender_and_loses_nothing(run: Run) -> None:
    sent = random.Random(1).randbytes(3_000_000)

    async def main() -> None:
        async def send(reader: Any, writer: Any) -> None:
            writer.write(sent)
            await writer.drain()
            writer.close()

        async with served(send, limit=4096) as (reader, _):
            got = bytearray()
            while data := await reader.read(1000 if len(got) < 20_000 else 200_000):
                got += data
                if len(got) < 20_000:
                    await asyncio.sleep(0)
                    # While no coroutine reads, at most the data of one receive is kept.
                    assert len(reader._buffer) < 2 * 4096 + 300_000
            assert got == sent

    run(main())


def test_a_read_that_was_cancelled_takes_nothing(run: Run) -> None:
    async def main() -> None:
        async with served(echo) as (reader, writer):
            for n in range(20):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(10), 0)
                task = asyncio.ensure_future(reader.readexactly(4))
                await asyncio.sleep(0)
                writer.write(b"%04d" % n)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await reader.readexactly(4) == b"%04d" % n

    run(main())


async def some_steps() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_the_pieces_of_readexactly_are_kept_when_it_is_cancelled() -> None:
    async def main() -> None:
        reader = noria.StreamReader(loop=asyncio.get_running_loop())
        for enough in (False, True):
            task = asyncio.ensure_future(reader.readexactly(10))
            await some_steps()
            for piece in (b"abc", b"def", b"gh"):
                reader.feed_data(piece)
            await some_steps()
            assert not task.done()
            if enough:
                # It is woken, with bytes beyond its own, and cancelled before it runs.
                reader.feed_data(b"ijkl")
                reader.feed_data(b"mn")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert reader._buffer == (b"abcdefghijklmn" if enough else b"abcdefgh")
            assert await reader.readexactly(5) == b"abcde"
            reader.feed_data(b"xy")
            assert await reader.read(100) == (b"fghijklmnxy" if enough else b"fghxy")

    asyncio.run(main())


def test_readexactly_reports_the_pieces_at_the_end_of_file() -> None:
    async def main() -> None:
        reader = noria.StreamReader(loop=asyncio.get_running_loop())
        task = asyncio.ensure_future(reader.readexactly(10))
        await some_steps()
        for piece in (b"abc", b"def"):
            reader.feed_data(piece)
            await some_steps()
        reader.feed_eof()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await task
        assert (caught.value.partial, caught.value.expected) == (b"abcdef", 10)
        assert reader.at_eof()

    asyncio.run(main())


def test_messages_with_a_header_in_any_pieces(run: Run) -> None:
    """Headers and bodies of all sizes arrive whole and in order, however the kernel splits them."""
    dice = random.Random(3)
    bodies = [dice.randbytes(dice.choice([0, 1, 900, 20_000, 100_000, 700_000])) for _ in range(40)]

    async def main() -> None:
        async def send(reader: Any, writer: Any) -> None:
            for body in bodies:
                writer.write(len(body).to_bytes(4, "big") + body + b"end\r\n")
                if dice.random() < 0.3:
                    await writer.drain()
            writer.close()

        async with served(send) as (reader, _):
            for body in bodies:
                assert await reader.readexactly(4) == len(body).to_bytes(4, "big")
                assert await reader.readexactly(len(body)) == body
                assert await reader.readuntil(b"\r\n") == b"end\r\n"
            assert await reader.read() == b""

    run(main())


def test_a_few_unread_bytes_do_not_keep_the_memory_of_a_large_message() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        readers = [noria.StreamReader(loop=loop) for _ in range(20)]
        tracemalloc.start()
        try:
            for reader in readers:
                reader.feed_data(bytes(200_000))
                assert len(await reader.readexactly(199_990)) == 199_990
            assert tracemalloc.get_traced_memory()[0] < 20 * 50_000
        finally:
            tracemalloc.stop()
        for reader in readers:
            assert await reader.read(100) == bytes(10)

    asyncio.run(main())


def test_two_readers_at_once_are_refused(run: Run) -> None:
    async def main() -> None:
        async with served(echo) as (reader, writer):
            first = asyncio.ensure_future(reader.read(1))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already waiting"):
                await reader.readline()
            writer.write(b"x")
            assert await first == b"x"

    run(main())


def test_a_line_that_another_reader_shortens_is_waited_for(run: Run) -> None:
    async def main() -> None:
        reader = noria.StreamReader(loop=asyncio.get_running_loop())
        reader.feed_data(b"x" * 1000)
        line = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        assert await reader.read(1000) == b"x" * 1000
        reader.feed_data(b"ab")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not line.done()
        reader.feed_data(b"\n")
        assert await line == b"ab\n"

    run(main())


def test_an_overridden_data_received_is_called(run: Run) -> None:
    class Counting(noria.aio.streams.StreamReaderProtocol):
        count = 0

        def data_received(self, data: bytes) -> None:
            self.count += len(data)
            super().data_received(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await noria.start_server(echo, "127.0.0.1", 0)
        reader = noria.StreamReader(loop=loop)
        protocol = Counting(reader, loop=loop)
        address = server.sockets[0].getsockname()[:2]
        transport, _ = await loop.create_connection(lambda: protocol, *address)
        transport.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert protocol.count == 5
        transport.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_an_overridden_feed_data_is_called(run: Run) -> None:
    pieces: list[bytes] = []

    class Recording(noria.StreamReader):
        def feed_data(self, data: Any) -> None:
            pieces.append(bytes(data))
            super().feed_data(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await noria.start_server(echo, "127.0.0.1", 0)
        reader = Recording(loop=loop)
        protocol = noria.aio.streams.StreamReaderProtocol(reader, loop=loop)
        address = server.sockets[0].getsockname()[:2]
        transport, _ = await loop.create_connection(lambda: protocol, *address)
        transport.write(b"hello")
        assert await reader.readexactly(5) == b"hello" == b"".join(pieces)
        transport.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_handler_that_raises_is_reported_and_its_connection_closed(run: Run) -> None:
    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reports.append(context)
        )

        async def handler(reader: Any, writer: Any) -> None:
            raise LookupError("of this handler")

        async with served(handler) as (reader, _):
            assert await reader.read() == b""
        assert [str(context["exception"]) for context in reports] == ["of this handler"]

    run(main())


def test_a_handler_without_a_coroutine_that_raises_is_reported_too(run: Run) -> None:
    async def main() -> None:
        reports: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: reports.append(context)
        )

        def handler(reader: Any, writer: Any) -> None:
            raise LookupError("of this handler")

        async with served(handler) as (reader, _):
            assert await reader.read() == b""
        assert [(context["message"], str(context["exception"])) for context in reports] == [
            ("Unhandled exception in client_connected_cb", "of this handler")
        ]

    run(main())


def test_unix_sockets(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        server = await noria.start_unix_server(echo, tmp_path / "echo")
        reader, writer = await noria.open_unix_connection(str(tmp_path / "echo"))
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


def test_install_puts_them_in_asyncios_place() -> None:
    program = (
        "import noria, asyncio\n"
        "noria.install(streams=True)\n"
        "async def handler(reader, writer):\n"
        "    assert type(reader) is noria.StreamReader and type(writer) is noria.StreamWriter\n"
        "    writer.write(await reader.readline())\n"
        "    writer.close()\n"
        "async def main():\n"
        "    server = await asyncio.start_server(handler, '127.0.0.1', 0)\n"
        "    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())\n"
        "    assert type(reader) is noria.StreamReader and type(writer) is noria.StreamWriter\n"
        "    writer.write(b'line\\n')\n"
        "    print((await reader.read()).decode(), end='')\n"
        "    writer.close()\n"
        "    await writer.wait_closed()\n"
        "    server.close()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("line\n", "", 0)
