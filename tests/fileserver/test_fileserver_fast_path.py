"""The fast path for small files returns the response of the service, or None."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from functools import partial

import pytest

pytest.importorskip("httptools")

from noria._core.files.openat2 import openat2, read_small_file
from noria.fileserver import fast_path
from noria.fileserver.fast_path import FastPath
from noria.fileserver.service import FileService
from noria.http.limits import Limits
from noria.http.messages import Headers, Request
from noria.http.protocol import HTTPProtocol
from noria.http.server_state import ServerState
from support import loops
from support.fileservice import ask


@pytest.fixture
def service(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"first")
    (tmp_path / "page.html").write_text("<script>alert(1)</script>")
    (tmp_path / "empty").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "ä b.bin").write_bytes(b"\0\1")
    (tmp_path / "large").write_bytes(bytes(fast_path.SMALL_FILE + 1))
    service = FileService(tmp_path)
    if not service.root.cached:
        service.close()
        pytest.skip("openat2 is refused here")
    yield service
    service.close()


def get(path, **fields):
    return Request("GET", path, Headers((k.replace("_", "-"), v) for k, v in fields.items()))


def fast_answer(service, request):
    """The answer of the fast path, which may refuse for a moment.

    openat2(2) with RESOLVE_CACHED may fail with EAGAIN at any time.
    """
    for _ in range(1000):
        if (answer := service.fast_path(request)) is not None:
            return answer
        time.sleep(0.001)
    raise AssertionError("the fast path does not answer")


def fields_of(head):
    first, *lines = head.decode("latin-1").removesuffix("\r\n").split("\r\n")
    assert first == "HTTP/1.1 200 OK"
    return sorted(tuple(line.split(": ", 1)) for line in lines)


@pytest.mark.parametrize("path", ["/a.txt", "/page.html", "/empty", "/directory/ä b.bin"])
def test_both_ways_say_the_same(service, path):
    async def long():
        return await ask(service, "GET", path)

    answer = asyncio.run(long())
    for _ in range(2):
        head, body = fast_answer(service, get(path, host="x", accept="*/*"))
        assert body == answer.body
        assert fields_of(head) == sorted(answer.response.headers)


def test_a_change_is_seen(service, tmp_path):
    path = tmp_path / "a.txt"
    seen = [fast_answer(service, get("/a.txt"))]
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    seen.append(fast_answer(service, get("/a.txt")))
    (tmp_path / "new").write_bytes(b"third one")
    os.replace(tmp_path / "new", path)
    seen.append(fast_answer(service, get("/a.txt")))
    assert [body for _, body in seen] == [b"first", b"other", b"third one"]
    tags = {dict(fields_of(head))["ETag"] for head, _ in seen}
    assert len(tags) == 3
    path.unlink()
    assert service.fast_path(get("/a.txt")) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"range": "bytes=0-1"},
        {"if_none_match": '"x"'},
        {"if_match": '"x"'},
        {"if_modified_since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if_unmodified_since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"accept_encoding": "gzip"},
        {"want_repr_digest": "sha-256=1"},
    ],
)
def test_special_fields_do_not_take_the_fast_path(service, fields):
    assert fast_answer(service, get("/a.txt")) is not None
    assert service.fast_path(get("/a.txt", **fields)) is None


@pytest.mark.parametrize(
    "path",
    ["/", "/directory", "/directory/", "/large", "/nothing", "/a.txt/", "/-/assets/page.js",
     "/../a.txt", "/%2e%2e/a.txt", "//a.txt", "/directory/../a.txt", "/a.txt\0", "/.noria-x",
     "/\udcff", "/link", "/link/hostname", "/loop", "/fifo", "/zero"],
)  # fmt: skip
def test_special_paths_do_not_take_the_fast_path(service, tmp_path, path):
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / ".noria-x").touch()
    assert service.fast_path(get(path)) is None


def test_a_link_that_came_to_lead_out_is_not_followed(service, tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(b"first")
    assert fast_answer(service, get("/a.txt")) is not None
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").symlink_to(outside)
    assert service.fast_path(get("/a.txt")) is None
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").symlink_to("directory/ä b.bin")
    assert fast_answer(service, get("/a.txt"))[1] == b"\0\1"


def test_other_methods_and_queries_do_not_take_the_fast_path(service):
    for method in ("HEAD", "PUT", "POST", "DELETE"):
        assert service.fast_path(Request(method, "/a.txt")) is None
    assert service.fast_path(Request("GET", "/a.txt", query={"download": ""})) is None


def test_no_more_heads_are_kept_than_allowed(service, tmp_path, monkeypatch):
    monkeypatch.setattr(fast_path, "MAX_CACHED_HEADS", 3)
    for name in "bcdefg":
        (tmp_path / name).write_text(name)
        assert fast_answer(service, get(f"/{name}"))[1] == name.encode()
    assert list(service.fast_path._cached) == ["/e", "/f", "/g"]
    assert fast_answer(service, get("/b"))[1] == b"b"


def test_without_openat2_there_is_no_fast_path(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"first")
    service = FileService(tmp_path, native=False)
    assert FastPath(service.root, False)(get("/a.txt")) is None
    service.close()


def test_on_a_connection(service):
    responses = []

    async def main():
        loop = asyncio.get_running_loop()
        state = ServerState(
            service.handle, Limits(), lambda *each: responses.append(each[1:3]), service.fast_path
        )
        server = await loop.create_server(partial(HTTPProtocol, state), "127.0.0.1", 0)
        state.start()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        line = b"GET /%b HTTP/1.1\r\nHost: x\r\n%b\r\n"
        writer.write(line % (b"a.txt", b"") + line % (b"none", b"") + line % (b"empty", b""))
        writer.write(line % (b"a.txt", b"Connection: close\r\n"))
        data = await reader.read()
        assert [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]] == [
            b"200",
            b"404",
            b"200",
            b"200",
        ]
        first, _, last = (
            part for part in data.split(b"HTTP/1.1 ") if part.endswith((b"first", b"\r\n\r\n"))
        )
        assert first.count(b"Date: ") == 1
        assert b"Connection: close" in last
        writer.close()
        # A client that has shut down its sending side still gets its response.
        with contextlib.closing(socket.create_connection(server.sockets[0].getsockname())) as sock:
            sock.sendall(line % (b"a.txt", b""))
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(20)
            got = b""
            while part := await asyncio.to_thread(sock.recv, 65536):
                got += part
            assert got.endswith(b"\r\n\r\nfirst")
        server.close()
        await state.drain(5)
        state.stop()

    loops.run(main(), "auto")
    assert [status for status, _ in responses] == [200, 404, 200, 200, 200]
    assert [sent for _, sent in responses][2:] == [0, 5, 5]


def test_errors_of_openat2_and_read_small(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    top = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(FileNotFoundError) as caught:
            openat2(top, b"nothing", os.O_RDONLY, 0, 0)
        assert caught.value.filename == "nothing"
        with pytest.raises(OSError, match="Invalid argument"):
            openat2(top, b"file", os.O_RDONLY, 0, 1 << 40)
        with pytest.raises(TypeError):
            openat2(top, None, os.O_RDONLY, 0, 0)
        assert read_small_file(top, b"file", 3)[1] == b"abc"
        assert read_small_file(top, b"file", 2) is None
        assert read_small_file(top, b"nothing", 2) is None
        assert read_small_file(-1, b"file", 3) is None
    finally:
        os.close(top)


@pytest.mark.parametrize("cut", [1, 1000, 300_000, 1 << 20])
def test_a_large_body_is_complete_and_the_next_request_begins_behind_it(tmp_path, cut):
    """Large bodies bypass the parser: exactly as many bytes as their length."""
    body = bytes(range(256)) * 4096  # 1 MiB
    put = b"PUT /large%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    get = b"GET /large0 HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = put % (0, len(body)) + body + put % (1, len(body)) + body + get
    sent += b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    async def main():
        loop = asyncio.get_running_loop()
        service = FileService(tmp_path, uploads=True, disk_floor=0)
        state = ServerState(service.handle, Limits(), None, service.fast_path)
        server = await loop.create_server(partial(HTTPProtocol, state), "127.0.0.1", 0)
        state.start()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

        async def send():
            # In pieces that end anywhere, byte by byte around the ends of heads and bodies.
            at = 0
            while at < len(sent):
                near = min(at % len(body), len(body) - at % len(body)) < 2000
                step = cut if cut > 1000 or not near else 100
                writer.write(sent[at : at + max(step, 100)])
                at += max(step, 100)
                if near:
                    await writer.drain()
                    await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        data = await reader.read()
        await sending
        writer.close()
        server.close()
        await state.drain(5)
        state.stop()
        service.close()
        return data

    data = loops.run(main(), "auto")
    heads = [data[at : at + 12] for at in range(len(data)) if data.startswith(b"HTTP/1.1 ", at)]
    assert heads == [b"HTTP/1.1 201", b"HTTP/1.1 201", b"HTTP/1.1 200", b"HTTP/1.1 404"]
    assert data.count(body) == 1
    assert (tmp_path / "large0").read_bytes() == (tmp_path / "large1").read_bytes() == body
