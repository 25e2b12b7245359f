"""The HTTP protocol: what it takes, what it refuses, and that no client holds up another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
import tempfile
import time
from functools import partial

import pytest

from support import loops

pytest.importorskip("httptools")

import noria
from noria import models
from noria.http import protocol as protocol_module
from noria.http.head import parse_target
from noria.http.limits import Limits
from noria.http.messages import FileBody, HTTPException, Response
from noria.http.protocol import HTTPProtocol
from noria.http.request_body import RequestBody
from noria.http.request_parser import RequestParser
from noria.http.server_state import ServerState
from noria.http.tls import TLSProtocolFactory

BIG = bytes(range(256)) * 4096  # 1 MiB


class Service:
    """A small service in place of the files'."""

    def __init__(self):
        self.seen = []
        self.closed = 0
        self.gate = asyncio.Event()
        self.errors = []

    async def handle(self, request):
        self.seen.append((request.method, request.path))
        return await getattr(self, "at_" + request.path.strip("/").split("/")[0], self.at_)(request)

    async def at_(self, request):
        return Response(200, [("Content-Type", "text/plain")], request.path.encode())

    async def at_query(self, request):
        return Response(body=repr(sorted(request.query.items())).encode())

    async def at_body(self, request):
        try:
            got = b"".join([chunk async for chunk in request.body])
        except Exception as error:
            self.errors.append(error)
            raise
        return Response(201, body=b"%d:%b" % (len(got), got[:16]))

    async def at_slowly(self, request):
        size = 0
        async for chunk in request.body:
            size += len(chunk)
            await self.gate.wait()
        return Response(body=b"%d" % size)

    async def at_wait(self, request):
        await self.gate.wait()
        return Response(body=b"waited")

    async def at_refuse(self, request):
        raise HTTPException(403, "Not this one.", headers=[("X-Why", "because")])

    async def at_fail(self, request):
        raise RuntimeError("of the test")

    async def at_split(self, request):
        return Response(headers=[("Location", "/a\r\nSet-Cookie: x")])

    async def at_none(self, request):
        return Response(204)

    async def at_stream(self, request):
        return Response(body=self.numbers())

    async def numbers(self):
        try:
            for number in range(3):
                yield b"%d," % number
                await asyncio.sleep(0)
        finally:
            self.closed += 1

    async def at_endless(self, request):
        return Response(body=self.forever())

    async def forever(self):
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            self.closed += 1

    async def at_lies(self, request):
        return Response(headers=[("Content-Length", "7")], body=self.numbers())

    async def at_file(self, request):
        with tempfile.TemporaryFile() as file:
            file.write(b"0123456789")
            file.flush()
            return Response(body=FileBody(os.dup(file.fileno()), 2, 5))

    async def at_big(self, request):
        with tempfile.TemporaryFile() as file:
            file.write(BIG)
            file.flush()
            return Response(body=FileBody(os.dup(file.fileno()), 1, len(BIG) - 1))

    async def at_shorter(self, request):
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 100_000)
            file.flush()
            return Response(body=FileBody(os.dup(file.fileno()), 0, 200_000))


@contextlib.asynccontextmanager
async def serving(limits=None, secure=False, on_response=None):
    """A server on a port: (state, service, port)."""
    service = Service()
    state = ServerState(service.handle, limits, on_response)
    loop = asyncio.get_running_loop()
    context = loops.server_context() if secure else None
    protocols = (
        TLSProtocolFactory(state, context) if secure == "counted" else partial(HTTPProtocol, state)
    )
    server = await loop.create_server(
        protocols, "127.0.0.1", 0, ssl=None if secure == "counted" else context
    )
    try:
        yield state, service, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await state.drain(0)
        state.stop()
        await server.wait_closed()


async def said(port, raw, end=True):
    """All that the server says to these bytes until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    if end:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


def run(main):
    return noria.run(main)


def statuses(answer):
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d+) [^\r]*\r\n", answer)]


HOST = b"Host: a\r\n"

REFUSED = {
    "both lengths": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "both lengths, other order": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "two lengths": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),  # noqa: E501
    "two lengths that differ": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", 400),  # noqa: E501
    "a list of lengths": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", 400),
    "a length with a sign": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400),
    "a negative length": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na", 400),
    "a hexadecimal length": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na", 400),
    "an empty length": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na", 400),
    "a huge length": (b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\na", 400),  # noqa: E501
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF after a field": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "a folded field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
    "a folded field by tab": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "a tab before the colon": (b"GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n", 400),
    "a space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a field without a name": (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    "a field without a colon": (b"GET / HTTP/1.1\r\nHost: a\r\nfield\r\n\r\n", 400),
    "a name with a bracket": (b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "NUL in a name": (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", 400),
    "NUL in the target": (b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a control character in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "two Hosts in one": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "a Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a chunk size with 0x": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),  # noqa: E501
    "a chunk size that is a word": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\na\r\n0\r\n\r\n", 400),  # noqa: E501
    "a negative chunk size": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n", 400),  # noqa: E501
    "a chunk size that overflows": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\na\r\n0\r\n\r\n", 400),  # noqa: E501
    "a space after the chunk size": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", 400),  # noqa: E501
    "a chunk longer than said": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),  # noqa: E501
    "bare LF after a chunk size": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400),  # noqa: E501
    "a chunk extension that is not closed": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x=\"y\r\na\r\n0\r\n\r\n", 400),  # noqa: E501
    "chunked not last": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "chunked twice": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "chunked, then identity": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "chunked in HTTP/1.0": (b"PUT /body HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "a coding not known": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),  # noqa: E501
    "bad escapes": (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "half an escape": (b"GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target without a slash": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a proxy's target": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "an unknown method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "HTTP/2 by word of mouth": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "a version that is none": (b"GET / HTTP/11\r\nHost: a\r\n\r\n", 400),
    "two spaces after the method": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab after the method": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab before the version": (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space after the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "a space before the request line": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab before the request line": (b"\tGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an empty line, then a space": (b"\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bare CR before the request line": (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bare LF before the request line": (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CR CR LF before the request line": (b"\r\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bare CR in the target": (b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bare CR after the version": (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    "a method that is no token": (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a version in small letters": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "RTSP": (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400),
    "ICE": (b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "an asterisk for a file": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a final coding other than chunked": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "a coding that ends in chunked": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),  # noqa: E501
    "CR CR LF after the fields": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", 400),
    "bare LF after the trailers": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n", 400),  # noqa: E501
    "an unknown expectation": (b"PUT /body HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 0\r\n\r\n", 417),  # noqa: E501
    "101 fields": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
    "101 trailers": (b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),  # noqa: E501
    "a head above 16 KiB": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 16384 + b"\r\n\r\n", 431),
    "a target above 16 KiB": (b"GET /" + b"y" * 16384 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
}  # fmt: skip


def test_malformed_requests_are_refused_and_the_connection_ends():
    follow = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

    async def main():
        async with serving() as (state, service, port):
            for name, (raw, status) in REFUSED.items():
                answer = await said(port, raw + follow, end=False)
                assert statuses(answer) == [status], name
                assert b"Connection: close\r\n" in answer, name
                assert ("GET", "/smuggled") not in service.seen, name
                bytewise = await pieces(port, raw)
                assert statuses(bytewise) == [status], f"{name}, in pieces"
            assert state.active_uploads == 0

    async def pieces(port, raw):
        """Cut in the middle of everything: two halves at a time of a few bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(raw), max(7, len(raw) // 12)):
                writer.write(raw[start : start + max(7, len(raw) // 12)])
                await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return answer

    run(main())


FIRST = {
    "without a body": b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
    "with a length": b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\na\r\n\r\nb",
    "chunked": b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\na\r\n\r\nb\r\n0\r\n\r\n",
    "with trailers": b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1;x=y\r\na\r\n0\r\nX: y\r\n\r\n",
    "chunked with a last chunk within": b"PUT /body HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0A\r\n\r\n0\r\n\r\n0\r\n\r\n000;x=y\r\nX: 0\r\n\r\n",
    "with an upgrade": b"PUT /body HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "with a chunked upgrade": b"PUT /body HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n"
    b"Upgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    "large": b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n" + b"\r\n" * 300_000,
}


@pytest.mark.parametrize("first", FIRST)
def test_between_requests_empty_lines_are_ignored_and_nothing_else(first):
    """RFC 9112, 2.2: CR LF, and no bare CR or LF, may come before a request line."""
    follow = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    cases = [
        (b"", 200),
        (b"\r\n", 200),
        (b"\r\n\r\n\r\n", 200),
        (b"\r\r\n", 400),
        (b"\r\n\r\r\n", 400),
        (b"\n", 400),
        (b"\r", 400),
        (b" ", 400),
        (b"\t", 400),
        (b"\0", 400),
    ]

    async def main():
        async with serving() as (_, service, port):
            for between, status in cases:
                raw = FIRST[first] + between + follow
                begin = max(0, len(FIRST[first]) - 8)
                for cut in (0, *range(begin, len(FIRST[first] + between) + 4)):
                    service.seen.clear()
                    answer = await in_two(port, raw, cut)
                    assert [found // 100 for found in statuses(answer)] == [2, status // 100], (
                        between,
                        cut,
                    )
                    assert len(service.seen) == 1 + (status == 200), (between, cut)

    async def in_two(port, raw, cut):
        """What the server answers to bytes that reach it in two parts."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        writer.write(raw[:cut])
        for _ in range(4):
            await asyncio.sleep(0)
        writer.write(raw[cut:])
        answer = await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return answer

    run(main())


def test_a_request_line_byte_by_byte():
    lines = {
        b"GET /a HTTP/1.1\r\n": 200,
        b"GET  /a HTTP/1.1\r\n": 400,
        b"\rGET /a HTTP/1.1\r\n": 400,
        b" GET /a HTTP/1.1\r\n": 400,
        b"G(T /a HTTP/1.1\r\n": 400,
        b"BREW /a HTTP/1.1\r\n": 501,
        b"GET /a HTTP/1.2\r\n": 505,
        b"GET /a HTTP/3.0\r\n": 505,
        b"GET /a http/1.1\r\n": 400,
    }

    async def main():
        async with serving() as (state, _, port):
            for line, status in lines.items():
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                await loops.until(lambda: len(state.connections) == 1)
                (connection,) = state.connections
                for byte in b"\r\n" + line + b"Host: a\r\nConnection: close\r\n\r\n":
                    if not connection.closed:
                        connection.data_received(bytes([byte]))
                assert statuses(await reader.read()) == [status]
                writer.close()
                await writer.wait_closed()
                await loops.until(lambda: not state.connections)

    run(main())


def test_bytes_after_the_last_request_are_ignored():
    async def main():
        async with serving() as (_, _, port):
            close = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            for more in (b"\n", b"GET  / HTTP/1.1\r\n", b"\rGET / HTTP/1.1\r\n\r\n", close):
                assert statuses(await said(port, close + more)) == [200], more

    run(main())


async def refused_while_it_sends(reader, writer):
    """The statuses that come while something is sent that does not end."""
    with contextlib.suppress(ConnectionError):
        for _ in range(40):
            writer.write(b"y" * 1024)
            await asyncio.sleep(0.001)
    found = statuses(await reader.read())
    writer.close()
    return found


def test_a_field_without_an_end_is_refused_before_it_ends():
    async def main():
        async with serving() as (_, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            assert await refused_while_it_sends(reader, writer) == [431]

    run(main())


@pytest.mark.parametrize("eager", [True, False])
def test_pipelined_requests_are_answered_in_order(eager, monkeypatch):
    monkeypatch.setattr(protocol_module, "EAGER_TASKS", eager and protocol_module.EAGER_TASKS)
    names = [b"/a", b"/wait", b"/big", b"/file", b"/stream", b"/none", b"/fail", b"/refuse", b"/z"]
    raw = b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % name for name in names)

    async def main():
        async with serving() as (_, service, port):
            asyncio.get_running_loop().call_later(0.02, service.gate.set)
            answer = await said(port, raw)
            assert statuses(answer) == [200, 200, 200, 200, 200, 204, 500, 403, 200]
            assert [path.encode() for _, path in service.seen] == names
            assert BIG[1:] in answer
            assert b"\r\n\r\n23456HTTP/1.1" in answer
            assert b"2\r\n0,\r\n2\r\n1,\r\n2\r\n2,\r\n0\r\n\r\nHTTP/1.1 204" in answer
            assert b"X-Why: because\r\n" in answer
            assert b"of the test" not in answer

    run(main())


def test_more_requests_than_may_wait_are_held_back_and_all_answered():
    count = 500

    async def main():
        async with serving() as (_, service, port):
            raw = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n" * count
            asyncio.get_running_loop().call_later(0.02, service.gate.set)
            assert statuses(await said(port, raw)) == [200] * count

    run(main())


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("model", loops.MODELS)
def test_no_more_is_answered_than_the_client_takes(model, secure):
    if not models.availability(model)[0]:
        pytest.skip(models.availability(model)[1])
    count, size = 500, 60_000

    async def main():
        async with serving(secure=secure) as (state, service, port):

            async def large(request):
                return Response(body=b"x" * size)

            service.at_large = large
            context = loops.client_context() if secure else None
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost" if secure else None
            )
            writer.transport.pause_reading()
            writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * count)
            await loops.until(lambda: any(one.flow.writable for one in state.connections))
            (connection,) = state.connections
            for _ in range(100):
                await asyncio.sleep(0)
                assert connection.transport.get_write_buffer_size() < 20 * size
            connection.check_timeouts(time.monotonic() + 35)  # longer than between two requests
            writer.transport.resume_reading()
            for _ in range(count):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(size) == b"x" * size
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    noria.run(main(), model=model)


def test_requests_of_one_client_do_not_keep_the_loop():
    async def main():
        async with serving() as (_, service, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
            writer.write_eof()
            before = most = 0
            while len(service.seen) < 1000:
                most = max(most, len(service.seen) - before)
                before = len(service.seen)
                await asyncio.sleep(0)
            assert max(most, 1000 - before) <= 64  # in a turn
            assert statuses(await reader.read()) == [200] * 1000
            writer.close()

    run(main())


@pytest.mark.parametrize("content", [b"\r\n\r\n", b"0\r\n\r\n"])
def test_empty_lines_within_a_chunk_do_not_split_it(content, monkeypatch):
    """Each piece costs a call of the parser: a body could keep the loop with few bytes."""
    pieces = 0
    feed = RequestParser._feed

    def counted(self, data):
        nonlocal pieces
        pieces += 1
        feed(self, data)

    monkeypatch.setattr(RequestParser, "_feed", counted)
    chunk = content * 30_000
    raw = b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + (
        b"%x\r\n%b\r\n" % (len(chunk), chunk) * 2
    )

    async def main():
        async with serving() as (_, _, port):
            follow = b"0\r\n\r\n \tGET /next HTTP/1.1\r\nHost: a\r\n\r\n"
            answer = await said(port, raw + follow)
            assert statuses(answer) == [201, 400]
            assert b"\r\n\r\n%d:" % (2 * len(chunk)) in answer

    run(main())
    assert pieces < 3000


@pytest.mark.parametrize("endless", [b"1;x=", b"5\r\nabcde\r\n0\r\nX: "])
def test_what_is_around_a_chunked_body_is_limited(endless):
    """Of an extension or a trailer that does not end, no more is taken than of a head."""

    async def main():
        async with serving() as (state, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + endless
            )
            assert await refused_while_it_sends(reader, writer) == [431]
            assert state.active_uploads == 0

    run(main())


def test_a_body_of_tiny_chunks():
    count = 30_000
    raw = (
        b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"2;a=b;c=d\r\nab\r\n" * count
        + b"0\r\n\r\n"
    )

    async def main():
        async with serving() as (_, _, port):
            answer = await said(port, raw)
            assert statuses(answer) == [201]
            assert answer.endswith(b"%d:%b" % (2 * count, b"ab" * 8))

    run(main())
    body = RequestBody(lambda: None)
    for _ in range(count):
        body.feed(b"ab")
    assert body.unread == 2 * count
    assert len(body.chunks) < 50  # objects, each of which takes more than its bytes
    assert b"".join(body.chunks) == b"ab" * count


@pytest.mark.parametrize("secure", [False, True, "counted"])
@pytest.mark.parametrize("model", loops.MODELS)
def test_bodies_down_and_up(model, secure):
    if not models.availability(model)[0]:
        pytest.skip(models.availability(model)[1])

    async def main():
        async with serving(secure=secure) as (state, _, port):
            context = loops.client_context() if secure else None
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost" if secure else None
            )
            for _ in range(2):
                writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"Content-Length: %d\r\n" % (len(BIG) - 1) in head
                assert await reader.readexactly(len(BIG) - 1) == BIG[1:]
                writer.write(
                    b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BIG)
                )
                writer.write(BIG)
                assert b" 201 " in await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(24) == b"%d:%b" % (len(BIG), BIG[:16])
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert state.bytes_sent == 2 * (len(BIG) - 1 + 24)

    noria.run(main(), model=model)


def test_chunked_bodies_with_extensions_and_trailers():
    raw = (
        b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: of no use\r\n\r\n"
        b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"
    )

    async def main():
        async with serving() as (_, _, port):
            answer = await said(port, raw)
            assert statuses(answer) == [201, 200]
            assert b"13:abc0123456789" in answer
            assert answer.endswith(b"/after")

    run(main())


def test_100_continue_comes_when_the_body_is_read():
    head = b"PUT /%b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    async def main():
        async with serving() as (_, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head % b"body")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            assert (await reader.readuntil(b"3:abc")).startswith(b"HTTP/1.1 201 ")
            writer.write(head % b"refuse")
            answer = await reader.read()  # not asked for the body, it cannot know what comes next
            assert statuses(answer) == [403]
            assert b"Connection: close" in answer
            writer.close()

    run(main())


def test_head_old_versions_and_the_end_of_a_connection():
    async def main():
        async with serving() as (_, _, port):
            head = await said(port, b"HEAD /file HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"Content-Length: 5\r\n" in head
            assert head.endswith(b"\r\n\r\n")
            assert (await said(port, b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n")).endswith(
                b"\r\n\r\n"
            )
            old = await said(port, b"GET /stream HTTP/1.0\r\n\r\n", end=False)
            assert old.endswith(b"\r\n\r\n0,1,2,")
            assert b"Transfer-Encoding" not in old
            kept = await said(port, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
            assert kept.count(b"Connection: keep-alive") == 2
            close = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            assert statuses(await said(port, close + close, end=False)) == [200]
            absolute = await said(port, b"GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n")
            assert absolute.endswith(b"/c")
            assert re.search(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", absolute)

    run(main())


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_an_upgrade_means_nothing(piece):
    fields = HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    raw = (
        b"GET /a HTTP/1.1\r\n" + fields + b"\r\n"
        b"PUT /body HTTP/1.1\r\n" + fields + b"Content-Length: 10\r\n\r\n0123456789"
        b"PUT /body HTTP/1.1\r\n" + fields + b"Transfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        b"PUT /body HTTP/1.1\r\n" + fields + b"Content-Length: 0\r\n\r\n"
        b"PUT /body HTTP/1.1\r\n" + fields + b"Transfer-Encoding: chunked\r\n\r\n"
        b"x\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    )

    async def main():
        async with serving() as (state, service, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for at in range(0, len(raw), piece):
                writer.write(raw[at : at + piece])
                await asyncio.sleep(0)
            answer = await reader.read()
            assert statuses(answer) == [200, 201, 201, 201, 400]
            for said in (b"10:0123456789", b"5:abcde", b"0:"):
                assert b"\r\n\r\n" + said in answer
            assert b"HTTP/1.1 101" not in answer
            assert ("GET", "/smuggled") not in service.seen
            assert state.active_uploads == 0
            writer.close()

    run(main())


def test_a_field_is_not_split_in_two_and_a_file_that_shrinks_ends_its_connection(caplog):
    async def main():
        async with serving() as (_, _, port):
            assert await said(port, b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n") == b""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /lies HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
            got = b""
            with contextlib.suppress(ConnectionError):
                while more := await reader.read(65536):
                    got += more
            assert got.count(b"HTTP/1.1") <= 1  # never taken for the next answer
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /shorter HTTP/1.1\r\nHost: a\r\n\r\n")
            got = b""
            with contextlib.suppress(ConnectionError):
                while more := await reader.read(65536):
                    got += more
            assert b"Content-Length: 200000" in got
            assert len(got) < 200_000
            writer.close()

    run(main())
    assert "line break" in caplog.text
    assert "shorter" in caplog.text
    assert "6 bytes, which is not its Content-Length" in caplog.text


def test_a_body_that_is_not_read_is_not_received():
    size = 64 << 20

    async def main():
        async with serving() as (state, service, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PUT /slowly HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)

            async def send():
                for _ in range(size >> 20):
                    writer.write(bytes(1 << 20))
                    await writer.drain()

            sending = asyncio.create_task(send())
            await loops.until(lambda: any(one.flow.read_paused for one in state.connections))
            (connection,) = state.connections
            assert connection.receiver.receiving.body.unread < 2 << 20
            assert state.bytes_received < size // 2
            # Another client is served meanwhile.
            assert statuses(await said(port, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")) == [200]
            service.gate.set()
            assert (await reader.readuntil(b"%d" % size)).startswith(b"HTTP/1.1 200")
            await sending
            writer.close()

    run(main())


def test_an_answer_before_the_body_is_read_arrives():
    async def main():
        async with serving() as (_, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                for _ in range(4):
                    writer.write(bytes(1 << 20))
                    await writer.drain()
            assert statuses(await reader.read()) == [403]
            writer.close()

    run(main())


def test_a_client_that_goes_away_ends_what_was_done_for_it():
    async def main():
        async with serving() as (state, service, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"begun")
            linger = struct.pack("ii", 1, 0)  # a reset: a FIN may be a client that only listens on
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()
            await loops.until(lambda: service.closed == 1)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            await loops.until(lambda: state.active_uploads)
            writer.close()
            await loops.until(lambda: service.errors)
            assert isinstance(service.errors[0], ConnectionError)
            await loops.until(lambda: not state.connections)
            assert state.active_uploads == 0
            assert not state.connections_per_client

    run(main())


def test_counts_of_connections_and_uploads_are_limited():
    limits = Limits(max_connections=3, max_per_client=2, max_uploads=1)

    async def main():
        async with serving(limits) as (state, service, port):
            first = await asyncio.open_connection("127.0.0.1", port)
            second = await asyncio.open_connection("127.0.0.1", port)
            await loops.until(lambda: len(state.connections) == 2)
            answer = await said(port, b"", end=False)
            assert statuses(answer) == [503]
            assert b"Retry-After" in answer
            upload = b"PUT /slowly HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
            first[1].write(upload + b"abc")
            await loops.until(lambda: state.active_uploads == 1)
            second[1].write(upload + b"abc")
            assert statuses(await second[0].read()) == [503]
            first[1].write(b"def")
            service.gate.set()
            assert (await first[0].readuntil(b"\r\n\r\n6")).startswith(b"HTTP/1.1 200")
            assert state.connections_refused == 1
            for _, writer in (first, second):
                writer.close()

    run(main())


def test_handshakes_count_among_the_connections():
    async def main():
        async with serving(Limits(max_connections=3, max_per_client=3), "counted") as (
            state,
            _,
            port,
        ):
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await loops.until(lambda: len(state.handshakes) == 2)
            secure = {"ssl": loops.client_context(), "server_hostname": "localhost"}
            reader, writer = await asyncio.open_connection("127.0.0.1", port, **secure)
            writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n/a")).startswith(b"HTTP/1.1 200 ")
            assert (len(state.handshakes), len(state.connections)) == (2, 1)
            with pytest.raises(OSError):  # noqa: PT011 one of many ways to see a connection end
                await asyncio.open_connection("127.0.0.1", port, **secure)
            assert state.connections_refused == 1
            assert state.connections_per_client == {"127.0.0.1": 3}
            # One leaves in the middle of its handshake, one speaks something else.
            silent[0][1].close()
            await loops.until(lambda: len(state.handshakes) == 1)
            silent[1][1].write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await loops.until(lambda: not state.handshakes)
            assert state.connections_per_client == {"127.0.0.1": 1}
            silent[1][1].close()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await loops.until(lambda: not state.connections)
            assert not state.connections_per_client
            assert (state.connections_accepted, state.connections_refused) == (4, 1)

    run(main())


def test_a_handshake_that_takes_too_long_ends_and_draining_ends_them_all():
    async def main():
        async with serving(Limits(head_timeout=0.05), "counted") as (state, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await loops.until(lambda: not state.handshakes)
            assert not state.connections_per_client
        async with serving(None, "counted") as (state, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await loops.until(lambda: state.handshakes)
            assert await state.drain(20) == 0
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(main())


def test_slow_clients_end_and_do_not_hold_up_others():
    """The clock is moved in place of waiting: `check` is told that much time went by."""

    async def main():
        async with serving(Limits(max_body_buffer=1 << 30)) as (state, _, port):
            idle = await asyncio.open_connection("127.0.0.1", port)
            head = await asyncio.open_connection("127.0.0.1", port)
            body = await asyncio.open_connection("127.0.0.1", port)
            taker = await asyncio.open_connection("127.0.0.1", port)
            taker[1].transport.pause_reading()
            idle[1].write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            await idle[0].readuntil(b"\r\n\r\n/a")
            head[1].write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
            body[1].write(b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nab")
            taker[1].write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 16)
            await loops.until(lambda: state.active_uploads and len(state.connections) == 4)
            await loops.until(lambda: any(one._responder.sending_file for one in state.connections))
            sweep(state, 5)
            assert len(state.connections) == 4
            sweep(state, 12)
            assert statuses(await head[0].read()) == [408]
            sweep(state, 21)
            assert statuses(await body[0].read()) == [408]
            assert state.active_uploads == 0
            sweep(state, 31)
            assert await idle[0].read() == b""
            await asyncio.sleep(0.05)
            now = statuses(await said(port, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"))
            assert now == [200]
            for seconds in (40, 61, 82, 103):
                sweep(state, seconds)
                await asyncio.sleep(0.01)
            await loops.until(lambda: not state.connections)
            for _, writer in (idle, head, body, taker):
                writer.transport.abort()

    def sweep(state, seconds):
        now = time.monotonic() + seconds
        for connection in list(state.connections):
            connection.check_timeouts(now)

    run(main())


def test_the_sweep_runs_by_itself():
    async def main():
        async with serving(Limits(head_timeout=0.01)) as (state, _, port):
            state.start()
            assert await said(port, b"", end=False) == b""

    run(main())


def test_draining_lets_requests_finish():
    async def main():
        async with serving() as (state, service, port):
            idle = await asyncio.open_connection("127.0.0.1", port)
            busy = await asyncio.open_connection("127.0.0.1", port)
            busy[1].write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            await loops.until(lambda: service.seen)
            draining = asyncio.create_task(state.drain(20))
            assert await idle[0].read() == b""
            service.gate.set()
            answer = await busy[0].read()
            assert statuses(answer) == [200]
            assert b"Connection: close" in answer
            assert await draining == 0
            for _, writer in (idle, busy):
                writer.close()

    run(main())


def test_answers_are_told():
    told = []

    async def main():
        async with serving(on_response=lambda *facts: told.append(facts)) as (_, _, port):
            await said(port, b"GET /file HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n")

    run(main())
    assert [(request and request.path, status, sent) for request, status, sent, _, _ in told] == [
        ("/file", 200, 5),
        (None, 501, len("The server does not know the request's method.\n")),
    ]
    assert told[0][4] == "127.0.0.1"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", "/"),
        (b"/a%20b", "/a b"),
        (b"/%C3%A9", "/é"),
        (b"/%ff", "/\udcff"),
        (b"/a%2fb", "/a/b"),
        (b"/a+b", "/a+b"),
        (b"//x/y", "//x/y"),
        (b"*", "/"),
        (b"HTTP://h", "/"),
    ],
)
def test_targets(raw, path):
    assert parse_target(raw) == (path, {})


def test_the_host_of_an_absolute_target_is_the_one_that_counts():
    """RFC 9112, 3.2.2: the Host field is ignored beside it."""
    seen = []

    async def main():
        async with serving() as (state, service, port):

            async def at_host(request):
                seen.append(request.headers.all("host"))
                return Response(204)

            service.at_host = at_host
            state.allows_host = lambda host: host.partition(":")[0] == "here"
            for absolute, host, status in (
                (b"http://here", b"other", 204),
                (b"HTTPS://here:80", b"here", 204),
                (b"http://other", b"here", 421),
                (b"http://other:80", b"here", 421),
                (b"http://u@here", b"here", 400),
                (b"http://he,re", b"here", 400),
                (b"", b"other", 421),
                (b"", b"here:1", 204),
            ):
                raw = b"GET %b/host HTTP/1.1\r\nHost: %b\r\n\r\n" % (absolute, host)
                assert statuses(await said(port, raw)) == [status], absolute
            assert seen == [["here"], ["here:80"], ["here:1"]]
            seen.clear()
            old = b"GET http://here/host HTTP/1.0\r\n\r\n"
            assert statuses(await said(port, old)) == [204]
            assert seen == [["here"]]

    run(main())


def test_queries():
    assert parse_target(b"/a?archive=tar&download&b=%26+c") == (
        "/a",
        {"archive": "tar", "download": "", "b": "& c"},
    )
    with pytest.raises(HTTPException) as problem:
        parse_target(b"/?" + b"a=b&" * 101)
    assert problem.value.status == 400


def test_limits_that_make_no_sense():
    with pytest.raises(ValueError, match="idle_timeout must be above 0, not 0"):
        Limits(idle_timeout=0)
