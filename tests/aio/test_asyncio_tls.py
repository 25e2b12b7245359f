"""TLS on the asyncio loop: how connections end. Each test also runs on asyncio's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import sys
import weakref
from collections import Counter
from typing import Any

import pytest

import noria
from support.loops import (
    FULL,
    MODELS,
    ORACLE,
    Keeper,
    alive,
    client_context,
    count,
    pair,
    reset,
    run,
    server_context,
    until,
)

PATIENCE = 20


@pytest.fixture(params=(*MODELS, ORACLE))
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def record_reports() -> list[dict[str, Any]]:
    """Return a list to which the running loop's error reports are appended."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
    return reports


class Peer:
    """A TLS peer that the test controls step by step, over a plain socket."""

    def __init__(self, sock: socket.socket, server_side: bool) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server_context() if server_side else client_context()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)

    async def flush(self, limit: int | None = None) -> int:
        data = self.outgoing.read()[:limit]
        await asyncio.get_running_loop().sock_sendall(self.sock, data)
        return len(data)

    async def fill(self) -> bool:
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except ConnectionError:
            return False
        self.incoming.write(data)
        return bool(data)

    async def handshake(self, limit: int = 1 << 30) -> bool:
        """Do the handshake with at most `limit` bytes sent; return whether it succeeded."""
        while True:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            wanted = self.outgoing.pending
            limit -= await self.flush(limit)
            if limit <= 0 and wanted:
                return False
            if done:
                return True
            if not await self.fill():
                return False

    async def write(self, data: bytes) -> None:
        self.tls.write(data)
        await self.flush()

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                data += self.tls.read(size - len(data))
            except ssl.SSLWantReadError:
                if not await self.fill():
                    break
        return data


async def with_peer(server_side: bool, **options: Any) -> tuple[Keeper, Peer, Any]:
    """A connection of the loop on the given side and a Peer on the other, after the handshake."""
    loop = asyncio.get_running_loop()
    if server_side:
        made = loop.create_future()

        def factory() -> Keeper:
            keeper = Keeper()
            keeper.made.add_done_callback(lambda _: made.set_result(keeper))
            return keeper

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context(), **options)
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        peer = Peer(sock, False)
        assert await peer.handshake()
        return await made, peer, server
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    begun = asyncio.ensure_future(
        loop.create_connection(
            Keeper,
            *listener.getsockname(),
            ssl=client_context(),
            server_hostname="localhost",
            **options,
        )
    )
    sock, _ = await loop.sock_accept(listener)
    peer = Peer(sock, True)
    assert await peer.handshake()
    _, keeper = await begun
    return keeper, peer, listener


@pytest.mark.parametrize("data", [b"", b"x" * 300_000], ids=["idle", "data"])
def test_tls_closed_while_reading_is_paused(model, data):
    async def main() -> None:
        record_reports()
        client, keeper, server = await pair(secure=True)
        keeper.transport.pause_reading()
        client.transport.write(data)
        await asyncio.sleep(0.01)
        keeper.transport.close()
        await asyncio.wait_for(keeper.lost, PATIENCE)
        await asyncio.wait_for(client.lost, PATIENCE)
        assert not keeper.data
        server.close()

    run(main(), model)


def test_tls_peer_ends_while_reading_is_paused(model):
    """After resume_reading the data that was sent before arrives, then the end of file."""

    async def main() -> None:
        client, keeper, server = await pair(secure=True)
        keeper.transport.pause_reading()
        client.transport.write(b"x" * 100_000)
        client.transport.close()
        await asyncio.sleep(0.02)
        assert not keeper.data
        assert not keeper.lost.done()
        keeper.transport.resume_reading()
        assert await asyncio.wait_for(keeper.lost, PATIENCE) is None
        assert await asyncio.wait_for(client.lost, PATIENCE) is None
        assert len(keeper.data) == 100_000
        server.close()

    run(main(), model)


@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
def test_tls_peer_that_ends_without_close_notify(model, server_side):
    async def main() -> None:
        keeper, peer, server = await with_peer(server_side)
        await peer.write(b"last words")
        peer.sock.shutdown(socket.SHUT_WR)  # to close with tickets unread would be a reset
        assert await asyncio.wait_for(keeper.lost, PATIENCE) is None
        assert keeper.data == b"last words"
        peer.sock.close()
        server.close()

    run(main(), model)


@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
def test_tls_peer_that_resets(model, server_side):
    async def main() -> None:
        keeper, peer, server = await with_peer(server_side)
        keeper.transport.write(b"x" * 10_000_000)
        reset(peer.sock)
        error = await asyncio.wait_for(keeper.lost, PATIENCE)
        assert error is None or isinstance(error, ConnectionError)
        keeper.transport.write(b"to nobody")
        server.close()

    run(main(), model)


@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
@pytest.mark.parametrize("data", [b"", b"x" * 10_000_000], ids=["idle", "data"])
def test_tls_peer_that_ignores_close_notify(model, server_side, data):
    """The peer stays connected and sends nothing: the transport closes after its timeout."""

    async def main() -> None:
        record_reports()
        keeper, peer, server = await with_peer(server_side, ssl_shutdown_timeout=0.1)
        keeper.transport.write(data)
        keeper.transport.close()
        assert isinstance(await asyncio.wait_for(keeper.lost, PATIENCE), TimeoutError)
        peer.sock.close()
        server.close()

    run(main(), model)


@pytest.mark.parametrize("server_side", [True, False], ids=["server", "client"])
def test_tls_garbage_after_the_handshake_ends_the_connection(model, server_side):
    async def main() -> None:
        reports = record_reports()
        keeper, peer, server = await with_peer(server_side)
        await asyncio.get_running_loop().sock_sendall(peer.sock, b"no record of any kind" * 10)
        error = await asyncio.wait_for(keeper.lost, PATIENCE)
        # OpenSSL's error is an OSError: asyncio passes it to the protocol only.
        assert isinstance(error, ssl.SSLError)
        assert not reports
        peer.sock.close()
        server.close()

    run(main(), model)


def test_start_tls_with_unsent_data_in_the_plain_transport(model):
    """All plaintext is sent before the first byte of the handshake."""
    size = 5_000_000

    async def main() -> None:
        reports = record_reports()
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        begun = asyncio.ensure_future(loop.create_connection(Keeper, *listener.getsockname()))
        sock, _ = await loop.sock_accept(listener)
        transport, keeper = await begun
        transport.write(b"x" * size)
        assert transport.get_write_buffer_size()
        upgrade = asyncio.ensure_future(
            loop.start_tls(transport, keeper, client_context(), server_hostname="localhost")
        )
        await asyncio.sleep(0.01)
        left = size
        while left:
            data = await loop.sock_recv(sock, min(left, 65536))
            assert data.strip(b"x") == b""
            left -= len(data)
        peer = Peer(sock, True)
        assert await peer.handshake()
        secure = await upgrade
        secure.write(b"secret")
        assert await peer.read(6) == b"secret"
        await peer.write(b"answer")
        await until(lambda: keeper.data == b"answer")
        sock.close()
        await asyncio.wait_for(keeper.lost, PATIENCE)
        listener.close()
        # asyncio's transport calls resume_writing of the TLS protocol without pause_writing.
        assert not reports or model == ORACLE

    run(main(), model)


def test_start_tls_with_received_data_in_the_plain_transport(model):
    """Data that arrives while reading is paused belongs to the handshake."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        accepted = loop.create_future()

        class Paused(Keeper):
            def connection_made(self, transport: Any) -> None:
                transport.pause_reading()
                super().connection_made(transport)
                accepted.set_result(self)

        server = await loop.create_server(Paused, "127.0.0.1", 0)
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        peer = Peer(sock, False)
        shaking = asyncio.ensure_future(peer.handshake())
        keeper = await accepted
        await asyncio.sleep(0.02)
        secure = await loop.start_tls(keeper.transport, keeper, server_context(), server_side=True)
        assert await shaking
        await peer.write(b"question")
        await until(lambda: keeper.data == b"question")
        secure.write(b"answer")
        assert await peer.read(6) == b"answer"
        sock.close()
        await asyncio.wait_for(keeper.lost, PATIENCE)
        server.close()

    run(main(), model)


LEFT = ("Transport", "Protocol", "Connection", "Task", "Timer", "TimerHandle")


async def nothing_left(before: Counter[str]) -> None:
    """Wait for pending work; then check that no object or descriptor leaks."""
    for _ in range(100):
        if not alive(*LEFT) - before:
            return
        await asyncio.sleep(0.01)
    assert not alive(*LEFT) - before


@pytest.mark.timeout(900 if FULL else 60)
def test_tls_handshakes_cut_off_anywhere_leave_nothing_on_the_server(model):
    rounds = count(60, 60 if model == ORACLE else 10_000)
    chance = random.Random(7)

    async def main() -> None:
        reports = record_reports()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()

        async def attempt(limit: int) -> bool:
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            done = await Peer(sock, False).handshake(limit)
            if chance.random() < 0.5:
                reset(sock)
            else:
                sock.close()
            return done

        before = alive(*LEFT)
        for _ in range(rounds // 10):
            await asyncio.gather(*(attempt(chance.randrange(600)) for _ in range(10)))
        await nothing_left(before)
        assert await attempt(1 << 30)
        await nothing_left(before)
        server.close()
        assert all(isinstance(context["exception"], OSError) for context in reports)

    run(main(), model)


@pytest.mark.timeout(900 if FULL else 60)
def test_tls_handshakes_cut_off_anywhere_leave_nothing_at_the_client(model):
    rounds = count(60, 60 if model == ORACLE else 10_000)
    chance = random.Random(8)

    async def main() -> None:
        record_reports()
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        listener.setblocking(False)
        address = listener.getsockname()
        context = client_context()

        async def serve(limit: int) -> None:
            sock, _ = await loop.sock_accept(listener)
            await Peer(sock, True).handshake(limit)
            if chance.random() < 0.5:
                reset(sock)
            else:
                sock.close()

        async def attempt() -> None:
            try:
                transport, _ = await loop.create_connection(
                    Keeper, *address, ssl=context, server_hostname="localhost"
                )
            except OSError:
                return
            transport.close()

        before = alive(*LEFT)
        for _ in range(rounds):
            # At most all that the server sends, without its tickets.
            await asyncio.gather(serve(chance.randrange(1200)), attempt())
        await nothing_left(before)
        listener.close()

    run(main(), model)


def test_tls_handshakes_cancelled_anywhere_leave_nothing(model):
    rounds = count(30, 2000)
    chance = random.Random(9)

    async def main() -> None:
        record_reports()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()
        context = client_context()
        before = alive(*LEFT)
        for _ in range(rounds):
            attempt = asyncio.ensure_future(
                loop.create_connection(Keeper, *address, ssl=context, server_hostname="localhost")
            )
            for _ in range(chance.randrange(25)):
                await asyncio.sleep(chance.choice((0, 0, 0, 0.0003)))
            attempt.cancel()
            done = (await asyncio.gather(attempt, return_exceptions=True))[0]
            if isinstance(done, tuple):
                done[0].abort()
            del done, attempt
        await nothing_left(before)
        server.close()

    run(main(), model)


@pytest.mark.parametrize("kind", ["random", "zeros", "http", "huge-record"])
def test_tls_handshake_with_garbage(model, kind):
    garbage = {
        "random": random.Random(3).randbytes(5000),
        "zeros": bytes(5000),
        "http": b"GET / HTTP/1.0\r\n\r\n",
        "huge-record": b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
    }[kind]

    async def main() -> None:
        reports = record_reports()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Keeper, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()
        before = alive(*LEFT)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(garbage)
            # It may send an alert; then it closes the connection.
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            del reader, writer
        await nothing_left(before)
        assert all(isinstance(context["exception"], OSError) for context in reports)
        reports.clear()
        server.close()

        # A server that replies with garbage.
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        attempt = asyncio.ensure_future(
            loop.create_connection(
                Keeper, *listener.getsockname(), ssl=client_context(), server_hostname="localhost"
            )
        )
        sock, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(sock, garbage)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.wait_for(attempt, PATIENCE)
        sock.close()
        listener.close()
        del attempt

    run(main(), model)
    gc.collect()


# BufferedProtocol, and reading that is paused from the start.


def test_a_buffered_protocol_may_give_a_bytearray(model):
    if model == ORACLE:
        pytest.skip("asyncio decrypts the second record into a copy of the buffer")

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(64 * 1024)
            self.data = bytearray()
            self.done = asyncio.get_running_loop().create_future()

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.data += self.buffer[:nbytes]

        def connection_lost(self, exc: BaseException | None) -> None:
            self.done.set_result(None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        received: list[Buffered] = []

        def factory() -> Buffered:
            received.append(Buffered())
            return received[0]

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context())
        _, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context()
        )
        # several records, none with a zero
        data = bytes(range(1, 256)) * 400
        writer.write(data)
        writer.close()
        await writer.wait_closed()
        await received[0].done
        assert bytes(received[0].data) == data
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_a_client_that_pauses_at_once_ends_its_handshake(model):
    if model == ORACLE:
        pytest.skip("asyncio keeps the last message of the handshake until reading resumes")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served = loop.create_future()

        class Server(Keeper):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                served.set_result(self)

        class Client(Keeper):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transport.pause_reading()

        server = await loop.create_server(Server, "127.0.0.1", 0, ssl=server_context())
        _, client = await loop.create_connection(
            Client, *server.sockets[0].getsockname(), ssl=client_context()
        )
        accepted = await served
        accepted.transport.write(b"hello")
        for _ in range(10):
            await asyncio.sleep(0)
        assert not client.data
        client.transport.resume_reading()
        await until(lambda: client.data == b"hello")
        client.transport.close()
        await client.lost
        await accepted.lost
        server.close()
        await server.wait_closed()

    run(main(), model)


# start_tls on a connection with a full write buffer, and on a lost one.


def test_start_tls_while_the_protocol_is_paused_resumes_it(model):
    if model == ORACLE:
        pytest.skip("asyncio never resumes the protocol")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        size = 4_000_000
        plain = loop.create_future()

        class Writer(Keeper):
            def __init__(self) -> None:
                super().__init__()
                self.calls: list[str] = []
                self.resumed = loop.create_future()

            def pause_writing(self) -> None:
                self.calls.append("pause")

            def resume_writing(self) -> None:
                self.calls.append("resume")
                self.resumed.set_result(None)

        class Reader(Keeper):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                if len(self.data) == size:
                    plain.set_result(None)

        accepted = loop.create_future()
        server = await loop.create_server(
            lambda: accepted.set_result(Writer()) or accepted.result(), "127.0.0.1", 0
        )
        receiving, reader = await loop.create_connection(Reader, *server.sockets[0].getsockname())
        writer = await accepted
        await writer.made
        # The kernel may otherwise take all at once: how large its buffers are depends on what other
        # connections of the machine did before.
        for transport, option in (
            (writer.transport, socket.SO_SNDBUF),
            (receiving, socket.SO_RCVBUF),
        ):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 1 << 16)
        writer.transport.write(b"z" * size)
        assert writer.calls == ["pause"]
        upgrading = asyncio.ensure_future(
            loop.start_tls(writer.transport, writer, server_context(), server_side=True)
        )
        await plain
        reading = await loop.start_tls(
            reader.transport, reader, client_context(), server_hostname="localhost"
        )
        writing = await upgrading
        await writer.resumed
        assert writer.calls == ["pause", "resume"]
        writing.write(b"hello")
        await until(lambda: len(reader.data) == size + 5)
        reading.abort()
        writing.abort()
        await reader.lost
        await writer.lost
        server.close()
        await server.wait_closed()

    run(main(), model)


async def upgrade(transport: Any, protocol: Any) -> Any:
    return await asyncio.get_running_loop().start_tls(
        transport, protocol, client_context(), server_hostname="localhost"
    )


@pytest.mark.parametrize("how", ["aborted", "closed", "lost"])
def test_start_tls_on_a_connection_that_has_ended(model, how):
    if model == ORACLE and how != "closed":
        pytest.skip("asyncio's start_tls never ends then")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        mine, peer = socket.socketpair()
        transport, keeper = await loop.create_connection(Keeper, sock=mine)
        if how == "aborted":
            transport.abort()
        elif how == "closed":
            transport.close()
        peer.close()
        if how == "lost":
            await keeper.lost
        if how == "lost":
            with pytest.raises(ConnectionAbortedError):
                await upgrade(transport, keeper)
        else:
            assert await upgrade(transport, keeper) is None
        await keeper.lost

    run(main(), model)


@pytest.mark.parametrize("ending", ["abort", "close"])
def test_a_connection_that_ends_while_start_tls_begins(model, ending):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mine, peer = socket.socketpair()
        transport, keeper = await loop.create_connection(Keeper, sock=mine)
        loop.call_soon(getattr(transport, ending))
        assert await upgrade(transport, keeper) is None
        peer.setblocking(False)
        while await loop.sock_recv(peer, 1000):
            pass  # the beginning of a handshake, and then the end
        peer.close()

    run(main(), model)


def test_protocols_of_both_kinds_take_turns(model):
    """Each callback sets a protocol of the other kind, while more records are buffered."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lost = loop.create_future()
        got = bytearray()
        data = bytes(range(200)) * 100

        class Server(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                for _ in range(20):
                    transport.write(data)
                transport.close()

        class Plain(asyncio.Protocol):
            transport: Any

            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                got.extend(data)
                successor = Buffered()
                successor.transport = self.transport
                self.transport.set_protocol(successor)

            def connection_lost(self, exc: BaseException | None) -> None:
                lost.set_result(exc)

        class Buffered(asyncio.BufferedProtocol):
            transport: Any

            def get_buffer(self, sizehint: int) -> memoryview:
                self.buffer = bytearray(1000)
                return memoryview(self.buffer)

            def buffer_updated(self, nbytes: int) -> None:
                got.extend(self.buffer[:nbytes])
                successor = Plain()
                successor.transport = self.transport
                self.transport.set_protocol(successor)

            def connection_lost(self, exc: BaseException | None) -> None:
                lost.set_result(exc)

        server = await loop.create_server(Server, "127.0.0.1", 0, ssl=server_context())
        await loop.create_connection(Plain, *server.sockets[0].getsockname(), ssl=client_context())
        assert await lost is None
        assert bytes(got) == data * 20
        server.close()
        await server.wait_closed()

    run(main(), model)


def test_a_start_tls_that_fails_leaves_no_cycle(model):
    if sys.version_info < (3, 13) or (model == ORACLE and sys.version_info < (3, 14)):
        pytest.skip("this Python's SSLProtocol keeps the exception in a cycle")

    async def fail(loop: Any, address: Any) -> weakref.ref[Any]:
        transport, protocol = await loop.create_connection(asyncio.Protocol, *address)
        context = ssl.create_default_context()  # the server's certificate is not trusted by it
        # pytest.raises would keep a reference to the exception.
        try:
            await loop.start_tls(transport, protocol, context, server_hostname="localhost")
        except ssl.SSLCertVerificationError:
            return weakref.ref(transport)
        raise AssertionError("start_tls did not fail")

    async def main() -> None:
        record_reports()
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        failing = asyncio.ensure_future(fail(loop, listener.getsockname()))
        sock, _ = await loop.sock_accept(listener)
        with contextlib.suppress(ssl.SSLError):
            await Peer(sock, True).handshake()
        transport = await failing
        # until connection_lost is called
        for _ in range(1000):
            if transport() is None:
                break
            await asyncio.sleep(0.001)
        assert transport() is None
        sock.close()
        listener.close()

    gc.collect()
    gc.disable()
    try:
        run(main(), model)
    finally:
        gc.enable()


STREAMS = pytest.mark.parametrize("streams", [asyncio, noria], ids=["asyncio", "noria"])


@STREAMS
def test_start_tls_takes_what_a_stream_reader_has_buffered(model, streams):
    """The client's handshake begins before the server's start_tls."""
    if model == ORACLE and sys.version_info < (3, 14):
        pytest.skip("asyncio loses the ClientHello before Python 3.14")
    accepted: asyncio.Future[Any]

    async def serve(reader: Any, writer: Any) -> None:
        await until(lambda: reader._buffer)
        await writer.start_tls(server_context())
        accepted.set_result(reader._transport is writer.transport)
        writer.write(await reader.readexactly(300_000))
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        nonlocal accepted
        accepted = asyncio.get_running_loop().create_future()
        reports = record_reports()
        server = await streams.start_server(serve, "127.0.0.1", 0)
        reader, writer = await streams.open_connection(*server.sockets[0].getsockname())
        await writer.start_tls(client_context(), server_hostname="localhost")
        # asyncio's streams before Python 3.14 pause the plain transport, not the new one.
        assert await accepted or (streams is asyncio and sys.version_info < (3, 14))
        writer.write(b"x" * 300_000)
        assert await reader.read() == b"x" * 300_000
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert not reports

    run(main(), model)


@STREAMS
def test_what_a_client_has_buffered_before_start_tls_stays_plain_text(model, streams):
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        reader, writer = await streams.open_connection(*listener.getsockname())
        sock, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(sock, b"go ahead\n")
        await until(lambda: reader._buffer)
        peer = Peer(sock, True)
        shaking = asyncio.ensure_future(peer.handshake())
        await writer.start_tls(client_context(), server_hostname="localhost")
        assert await shaking
        await peer.write(b"secret\n")
        assert await reader.readline() == b"go ahead\n"
        assert await reader.readline() == b"secret\n"
        writer.close()
        sock.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        listener.close()

    run(main(), model)


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_a_peer_that_ends_and_reads_slowly_gets_all_that_was_written(model, server_side):
    """Also close_notify, which waits behind data in a full write buffer."""
    if model == ORACLE and sys.version_info < (3, 13):
        pytest.skip("asyncio loses what is written after close() before Python 3.13")
    size = 6_000_000

    async def main() -> None:
        reports = record_reports()
        keeper, peer, server = await with_peer(server_side)
        keeper.transport.write(b"x" * size)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await peer.flush()
        await until(lambda: keeper.eof)
        keeper.transport.close()
        assert len(await peer.read(size)) == size
        while True:
            try:
                peer.tls.unwrap()
                break
            except ssl.SSLWantReadError:
                assert await peer.fill(), "no close_notify came"
        peer.sock.close()
        await asyncio.wait_for(keeper.lost, PATIENCE)
        server.close()
        assert not reports

    run(main(), model)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio's is not closing before that")
def test_the_transport_is_closing_when_the_one_below_is(model):
    async def main() -> None:
        client, keeper, server = await pair(secure=True)
        assert not client.transport.is_closing()
        client.transport._ssl_protocol._transport.close()
        assert client.transport.is_closing()
        await client.lost
        assert client.transport.is_closing()
        await keeper.lost
        server.close()

    run(main(), model)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="asyncio cancels the timeout before that")
@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
def test_the_shutdown_timeout_ends_a_connection_whose_peer_does_not_read(model, server_side):
    async def main() -> None:
        keeper, peer, server = await with_peer(server_side, ssl_shutdown_timeout=0.2)
        keeper.transport.write(b"x" * 20_000_000)
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        await peer.flush()
        await until(lambda: keeper.eof)
        keeper.transport.close()
        assert keeper.transport.is_closing()
        error = await asyncio.wait_for(keeper.lost, PATIENCE)
        assert isinstance(error, TimeoutError)
        peer.sock.close()
        server.close()

    run(main(), model)
