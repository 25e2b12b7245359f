"""Large uploads are spliced from the socket into the file, past the process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import os
import socket
import threading
import time

import pytest

from support import loops

pytest.importorskip("httptools")

import noria
from noria import models
from noria._core.files.splice import Splice, StopReason
from noria.fileserver.app import FileServerApp, make_service
from noria.fileserver.options import ServerOptions
from noria.fileserver.partial_file import PartialFile, reserve_ahead
from noria.http import body_splice
from noria.http.messages import HTTPException

DATA = os.urandom(1 << 20) * 12 + b"end"
BEGUN = 6 << 20  # bytes that are sent before the client pauses


@pytest.fixture(params=loops.MODELS)
def go(request):
    if not models.availability(request.param)[0]:
        pytest.skip(models.availability(request.param)[1])
    return lambda main: noria.run(main, model=request.param)


@pytest.fixture
def moves(monkeypatch):
    """The bytes that each call moved, and the reason it stopped."""
    found = []
    run = body_splice.BodySplicer._splice_once

    async def seen(self, *arguments):
        answer = await run(self, *arguments)
        found.append(answer)
        return answer

    monkeypatch.setattr(body_splice.BodySplicer, "_splice_once", seen)
    return found


@contextlib.asynccontextmanager
async def serving(root, **options):
    service = make_service(ServerOptions(directory=str(root), upload=True, **options))
    server = FileServerApp(service, ServerOptions(upload=True, **options))
    listening = await asyncio.get_running_loop().create_server(
        server.protocol_factory, "127.0.0.1", 0
    )
    try:
        yield server, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await server.state.drain(5)
        server.tus.stop()
        service.close()


def put(path, size, *fields):
    lines = [f"PUT {path} HTTP/1.1", "Host: a", f"Content-Length: {size}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
    return int(head.split()[1]), head, await reader.readexactly(length)


async def creation(reader, writer, size, name="file"):
    named = base64.b64encode(name.encode()).decode()
    writer.write(
        b"POST /-/uploads/ HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nContent-Length: 0\r\n"
        b"Upload-Length: %d\r\nUpload-Metadata: filename %b\r\n\r\n" % (size, named.encode())
    )
    status, head, _ = await answer(reader)
    assert status == 201
    return head.partition("location: ")[2].partition("\r\n")[0]


def patch(place, offset, size):
    return (
        f"PATCH {place} HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


async def stored(root):
    """A PUT to a separate server completes."""
    async with serving(root) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(put("/file", len(DATA)) + DATA)
        assert (await answer(reader))[0] == 201
        assert (root / "file").read_bytes() == DATA
        await closed(writer)


async def begun(port, moves):
    """A PUT of /slow that waits for more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(put("/slow", len(DATA)) + DATA[:BEGUN])
    await loops.until(lambda: moves and moves[-1][1] == StopReason.WOULD_BLOCK)
    return reader, writer


async def closed(writer):
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def test_a_large_body_is_spliced_and_the_connection_stays_open(go, tmp_path, moves):
    async def main():
        async with serving(tmp_path, quota=1 << 30) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for name in ("one", "two"):
                # Another request right behind the body: it must not go into the file.
                writer.write(put(f"/{name}", len(DATA)) + DATA)
                writer.write(b"HEAD /%b HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode())
                assert (await answer(reader))[0] == 201
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"http/1.1 200")
                assert b"content-length: %d" % len(DATA) in head
                assert (tmp_path / name).read_bytes() == DATA
            assert server.state.bytes_received > 2 * len(DATA)
            server.service.files.quota.check(0)
            assert server.service.files.quota.used == 2 * len(DATA)
            assert server.service.files.quota._reserved == 0
            await closed(writer)

    go(main())
    assert sum(count for count, _ in moves) > len(DATA)  # most of two


def test_an_upload_that_is_resumed_is_moved(go, tmp_path, moves):
    half = len(DATA) // 2

    async def main():
        async with serving(tmp_path) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            place = await creation(reader, writer, len(DATA))
            writer.write(patch(place, 0, half) + DATA[:half])
            assert (await answer(reader))[0] == 204
            writer.write(patch(place, half, len(DATA) - half) + DATA[half:])
            assert (await answer(reader))[0] == 204
            assert (tmp_path / "file").read_bytes() == DATA
            await closed(writer)

    go(main())
    assert sum(count for count, _ in moves) > half


def test_what_had_arrived_of_a_lost_connection_is_kept_by_an_upload_and_not_by_a_put(
    go, tmp_path, moves
):
    most = 9 << 20

    async def main():
        async with serving(tmp_path) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            place = await creation(reader, writer, len(DATA))
            writer.write(patch(place, 0, len(DATA)) + DATA[:most])
            await writer.drain()
            await closed(writer)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            upload = f"HEAD {place} HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\n\r\n".encode()
            offset = 0

            async def at():
                nonlocal offset
                writer.write(upload)
                offset = int((await answer_head(reader)).partition("upload-offset: ")[2].split()[0])
                return offset == most

            while not await at():
                await asyncio.sleep(0.01)
            writer.write(patch(place, offset, len(DATA) - offset) + DATA[offset:])
            assert (await answer(reader))[0] == 204
            assert (tmp_path / "file").read_bytes() == DATA
            # The same by PUT: nothing is left.
            writer.write(put("/put", len(DATA)) + DATA[:most])
            await writer.drain()
            await closed(writer)
            await loops.until(lambda: sorted(os.listdir(tmp_path)) == [".noria-uploads", "file"])

    async def answer_head(reader):
        return (await reader.readuntil(b"\r\n\r\n")).decode().lower()

    go(main())
    assert StopReason.EOF in {why for _, why in moves}


def test_no_thread_waits_for_a_slow_client(go, tmp_path, moves):
    async def main():
        async with serving(tmp_path) as (server, port):
            reader, writer = await begun(port, moves)
            (connection,) = server.state.connections
            body = connection.receiver.receiving.body
            assert body.received == BEGUN
            assert not body.splicing_since
            calls = len(moves)
            await asyncio.sleep(2 * body_splice.SLOW_CLIENT_PAUSE_SECONDS)
            assert len(moves) == calls
            writer.write(DATA[BEGUN:])
            assert (await answer(reader))[0] == 201
            assert (tmp_path / "slow").read_bytes() == DATA
            await closed(writer)

    go(main())


def test_a_client_that_is_too_slow_gets_408(go, tmp_path, moves):
    async def main():
        async with serving(tmp_path) as (server, port):
            reader, writer = await begun(port, moves)
            (connection,) = server.state.connections
            limits = server.state.limits
            connection.receiver.receiving.body.splicing_since = time.monotonic()
            connection.check_timeouts(
                time.monotonic() + 2 * limits.rate_window
            )  # the disk is slow, not the client
            connection.receiver.receiving.body.splicing_since = 0.0
            assert connection.receiver.receiving is not None
            connection.check_timeouts(time.monotonic() + 4 * limits.rate_window)
            assert (await answer(reader))[0] == 408
            await closed(writer)
            assert os.listdir(tmp_path) == []

    go(main())


def test_a_slow_client_does_not_occupy_a_thread(go, tmp_path, moves):
    """One byte each millisecond: a thread that waited for each one would never return."""
    most = 200

    async def main():
        async with serving(tmp_path) as (server, port):
            reader, writer = await begun(port, moves)
            (connection,) = server.state.connections
            body = connection.receiver.receiving.body
            calls = len(moves)
            for number in range(most):
                writer.write(DATA[BEGUN + number :][:1])
                await asyncio.sleep(0.001)
            await loops.until(lambda: body.received == BEGUN + most)
            assert all(why == StopReason.WOULD_BLOCK for _, why in moves[calls:])
            assert len(moves) - calls < most / 2  # bytes accumulate between two calls
            # The rate is checked with and without a thread.
            body.splicing_since = now = time.monotonic()
            connection.check_timeouts(now + 0.5)
            connection.receiver.receiving.rate_sample = (
                now - 2 * server.state.limits.rate_window,
                body.received,
            )
            connection.check_timeouts(now + 0.5)
            assert (await answer(reader))[0] == 408
            await closed(writer)

    go(main())


def test_a_disk_that_stalls_at_the_start_is_no_slow_client(go, tmp_path, monkeypatch):
    write, gate = PartialFile.write, threading.Event()

    def stalled(self, blocks):
        assert gate.wait(20)
        write(self, blocks)

    monkeypatch.setattr(PartialFile, "write", stalled)

    async def main():
        async with serving(tmp_path) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(put("/file", len(DATA)) + DATA)
            await loops.until(
                lambda: any(one.receiver.splicing for one in server.state.connections)
            )
            (connection,) = server.state.connections
            for number in (2, 4):
                connection.check_timeouts(
                    time.monotonic() + number * server.state.limits.rate_window
                )
            gate.set()
            assert (await answer(reader))[0] == 201
            assert (tmp_path / "file").read_bytes() == DATA
            await closed(writer)

    go(main())


def test_a_move_that_fails_ends_the_connection_however_much_comes(go, tmp_path, monkeypatch):
    """What it took out of the socket is not known: the next request would be taken for the body,
    or the body for a request."""
    (tmp_path / "victim").touch()
    failed = threading.Event()

    class Failing(Splice):
        def move(self, source, target, most):
            while super().move(source, target, most)[0]:  # everything that has arrived
                pass
            failed.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(body_splice, "Splice", Failing)
    abandon, gate = PartialFile.abandon, threading.Event()

    def slowly(self):
        assert gate.wait(20)
        abandon(self)

    monkeypatch.setattr(PartialFile, "abandon", slowly)

    async def main():
        async with serving(tmp_path) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(put("/file", len(DATA)) + DATA[:BEGUN])
            await loops.until(failed.is_set)
            (connection,) = server.state.connections
            writer.write(DATA[BEGUN:])
            hostile = b"DELETE /victim HTTP/1.1\r\nHost: a\r\n\r\n" * 200_000
            writer.write(put("/more", len(hostile)) + hostile)
            await loops.until(
                lambda: connection.receiver.closing or not connection.receiver.remaining
            )
            gate.set()
            status, head, _ = await answer(reader)
            assert status == 500
            assert "connection: close" in head
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await closed(writer)

    go(main())
    assert os.listdir(tmp_path) == ["victim"]


def test_a_resumed_upload_whose_task_is_cancelled_waits_for_its_thread(go, tmp_path, monkeypatch):
    """Else the thread would write to whatever has the number of the descriptor by then."""
    begun, gate, seen = threading.Event(), threading.Event(), []

    class Slow(Splice):
        def move(self, source, target, most):
            begun.set()
            assert gate.wait(20)
            seen.append(os.readlink(f"/proc/self/fd/{target}"))
            return super().move(source, target, most)

    monkeypatch.setattr(body_splice, "Splice", Slow)

    async def main():
        async with serving(tmp_path) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            place = await creation(reader, writer, len(DATA))
            writer.write(patch(place, 0, len(DATA)) + DATA[:BEGUN])
            await loops.until(begun.is_set)
            (connection,) = server.state.connections
            connection.task.cancel()
            await asyncio.sleep(0.05)
            gate.set()
            await closed(writer)
            await loops.until(lambda: not server.state.connections)

    go(main())
    assert len(seen) == 1
    assert seen[0].endswith(".data")


def test_the_server_ends_while_a_body_is_moved(go, tmp_path, moves):
    async def main():
        async with serving(tmp_path) as (server, port):
            reader, writer = await begun(port, moves)
            assert await server.state.drain(0) == 1
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await closed(writer)
            await loops.until(lambda: os.listdir(tmp_path) == [])

    go(main())


def test_urgent_data_is_no_part_of_the_body(go, tmp_path, moves):
    """splice(2) does not step over it."""
    begin = BEGUN

    async def main():
        loop = asyncio.get_running_loop()
        async with serving(tmp_path) as (_, port):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.setblocking(False)
                await loop.sock_sendall(sock, put("/file", len(DATA)) + DATA[:begin])
                await loops.until(lambda: moves and moves[-1][1] == StopReason.WOULD_BLOCK)
                sock.send(b"!", socket.MSG_OOB)
                await loop.sock_sendall(sock, DATA[begin:])
                assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 201 ")
            assert (tmp_path / "file").read_bytes() == DATA

    go(main())
    assert StopReason.UNSUPPORTED in {why for _, why in moves}


def test_an_error_of_the_disk_is_reported(go, tmp_path, monkeypatch):
    def full(self, splice, source, most):
        raise HTTPException(507, "The disk is full.")

    monkeypatch.setattr(PartialFile, "move", full)

    async def main():
        async with serving(tmp_path) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(put("/file", len(DATA)) + DATA)
            status, head, body = await answer(reader)
            assert status == 507
            assert "connection: close" in head
            assert b"full" in body
            await closed(writer)
            assert os.listdir(tmp_path) == []

    go(main())


def test_where_no_descriptors_are_left_it_is_received_as_before(go, tmp_path, moves, monkeypatch):
    def none_left(patience):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(body_splice, "Splice", none_left)

    go(stored(tmp_path))
    assert moves == []


def test_bytes_that_a_digest_is_made_of_are_not_moved(tmp_path, moves):
    async def main():
        async with serving(tmp_path) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            wrong = base64.b64encode(bytes(32)).decode()
            fields = [f"Repr-Digest: sha-256=:{wrong}:"]
            writer.write(put("/file", len(DATA), *fields) + DATA)
            assert (await answer(reader))[0] == 400
            await closed(writer)

    noria.run(main())
    assert moves == []


def test_other_loops_receive_as_ever(tmp_path, moves):
    asyncio.run(stored(tmp_path))
    assert moves == []


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_why_a_move_ends(ends, tmp_path):
    ours, theirs = ends
    splice = Splice(1)
    path = tmp_path / "file"
    with path.open("wb", 0) as file:
        theirs.send(b"abcdef")
        assert splice.move(ours.fileno(), file.fileno(), 4) == (4, StopReason.COUNT_REACHED)
        assert splice.move(ours.fileno(), file.fileno(), 4) == (2, StopReason.WOULD_BLOCK)
        assert splice.move(ours.fileno(), file.fileno(), 0) == (0, StopReason.COUNT_REACHED)
        theirs.send(b"gh")
        theirs.close()
        assert splice.move(ours.fileno(), file.fileno(), 4) == (2, StopReason.EOF)
        assert splice.move(file.fileno(), file.fileno(), 4) == (0, StopReason.UNSUPPORTED)
        splice.close()
        splice.close()
    assert path.read_bytes() == b"abcdefgh"


def test_a_file_that_takes_nothing_from_a_pipe(ends, tmp_path):
    ours, theirs = ends
    splice = Splice(1)
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = os.urandom(150_000)
    theirs.send(data)
    assert splice.move(ours.fileno(), fd, 100_000) == (100_000, StopReason.COUNT_REACHED)
    assert splice.move(ours.fileno(), fd, 100_000) == (50_000, StopReason.WOULD_BLOCK)
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == data


def test_disk_space_is_reserved_if_there_is_any_and_in_large_steps(tmp_path):
    path = tmp_path / "file"
    with path.open("wb", 0) as file:
        fd = file.fileno()
        reserved = reserve_ahead(fd, 0, 1 << 20, 0)
        assert reserved == 1 << 20
        assert path.stat().st_size == 0
        file.write(b"hello")
        assert reserve_ahead(fd, 5, 1 << 20, reserved) == reserved
        assert reserve_ahead(fd, 1 << 19, 1 << 20, reserved) == reserved
        assert reserve_ahead(fd, (1 << 19) + 1, 1 << 20, reserved) == (1 << 19) + 1 + (1 << 20)
        assert reserve_ahead(fd, 5, 1000, reserved) == reserved
    assert path.read_bytes() == b"hello"
    out, into = os.pipe()  # does not support it, which is no error
    assert reserve_ahead(into, 0, 1000, 0) == 1000
    os.close(out)
    os.close(into)
    with path.open("wb", 0) as file, pytest.raises(OSError, match=r"too large|space"):
        reserve_ahead(file.fileno(), 0, 1 << 62, 0)


def test_a_full_disk(ends):
    ours, theirs = ends
    theirs.send(b"abc")
    splice = Splice(1)
    with open("/dev/full", "wb", 0) as full, pytest.raises(OSError, match="space") as caught:
        splice.move(ours.fileno(), full.fileno(), 3)
    assert caught.value.errno == errno.ENOSPC
