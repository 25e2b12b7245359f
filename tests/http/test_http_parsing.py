"""What is parsed as a request, and what is rejected."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from support import loops

pytest.importorskip("httptools")

from noria.http.head import parse_target
from noria.http.messages import HTTPException, Response
from noria.http.request_body import RequestBody
from noria.http.request_parser import RequestParser
from support.http_server import HOST, exchange, run, serving, statuses

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
                answer = await exchange(port, raw + follow, end=False)
                assert statuses(answer) == [status], name
                assert b"Connection: close\r\n" in answer, name
                assert ("GET", "/smuggled") not in service.seen, name
                bytewise = await pieces(port, raw)
                assert statuses(bytewise) == [status], f"{name}, in pieces"
            assert state.active_uploads == 0

    async def pieces(port, raw):
        """The bytes are split at every position, and into pieces of a few bytes."""
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
        """The response to bytes that arrive in two parts."""
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
                assert statuses(await exchange(port, close + more)) == [200], more

    run(main())


async def refused_while_it_sends(reader, writer):
    """The statuses received while endless data is sent."""
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


@pytest.mark.parametrize("content", [b"\r\n\r\n", b"0\r\n\r\n"])
def test_empty_lines_within_a_chunk_do_not_split_it(content, monkeypatch):
    """Each piece costs a call of the parser, so a body of few bytes could block the loop."""
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
            answer = await exchange(port, raw + follow)
            assert statuses(answer) == [201, 400]
            assert b"\r\n\r\n%d:" % (2 * len(chunk)) in answer

    run(main())
    assert pieces < 3000


@pytest.mark.parametrize("endless", [b"1;x=", b"5\r\nabcde\r\n0\r\nX: "])
def test_what_is_around_a_chunked_body_is_limited(endless):
    """An endless extension or trailer is limited like a head."""

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
            answer = await exchange(port, raw)
            assert statuses(answer) == [201]
            assert answer.endswith(b"%d:%b" % (2 * count, b"ab" * 8))

    run(main())
    body = RequestBody(lambda: None)
    for _ in range(count):
        body.feed(b"ab")
    assert body.unread == 2 * count
    assert len(body.chunks) < 50  # objects, each of which takes more than its bytes
    assert b"".join(body.chunks) == b"ab" * count


def test_chunked_bodies_with_extensions_and_trailers():
    raw = (
        b"PUT /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: of no use\r\n\r\n"
        b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"
    )

    async def main():
        async with serving() as (_, _, port):
            answer = await exchange(port, raw)
            assert statuses(answer) == [201, 200]
            assert b"13:abc0123456789" in answer
            assert answer.endswith(b"/after")

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

            def check_host(host):
                if host.partition(":")[0] != "here":
                    raise HTTPException(421, "Another name.")

            state.check_host = check_host
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
                assert statuses(await exchange(port, raw)) == [status], absolute
            assert seen == [["here"], ["here:80"], ["here:1"]]
            seen.clear()
            old = b"GET http://here/host HTTP/1.0\r\n\r\n"
            assert statuses(await exchange(port, old)) == [204]
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
