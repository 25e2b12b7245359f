"""Requests and their responses, over TCP and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import time

import pytest

from support import loops

pytest.importorskip("httptools")

import noria
from noria import models
from noria.http import protocol as protocol_module
from noria.http.messages import Response
from noria.http.request_receiver import RequestReceiver
from support.http_server import BIG, exchange, run, serving, statuses


@pytest.mark.parametrize("eager", [True, False])
def test_pipelined_requests_are_answered_in_order(eager, monkeypatch):
    monkeypatch.setattr(protocol_module, "EAGER_TASKS", eager and protocol_module.EAGER_TASKS)
    names = [b"/a", b"/wait", b"/big", b"/file", b"/stream", b"/none", b"/fail", b"/refuse", b"/z"]
    raw = b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % name for name in names)

    async def main():
        async with serving() as (_, service, port):
            asyncio.get_running_loop().call_later(0.02, service.gate.set)
            answer = await exchange(port, raw)
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
            assert statuses(await exchange(port, raw)) == [200] * count

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
            # The body was not requested, so it is unknown where the next request begins.
            answer = await reader.read()
            assert statuses(answer) == [403]
            assert b"Connection: close" in answer
            writer.close()

    run(main())


def test_head_old_versions_and_the_end_of_a_connection():
    async def main():
        async with serving() as (_, _, port):
            head = await exchange(port, b"HEAD /file HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"Content-Length: 5\r\n" in head
            assert head.endswith(b"\r\n\r\n")
            assert (await exchange(port, b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n")).endswith(
                b"\r\n\r\n"
            )
            old = await exchange(port, b"GET /stream HTTP/1.0\r\n\r\n", end=False)
            assert old.endswith(b"\r\n\r\n0,1,2,")
            assert b"Transfer-Encoding" not in old
            kept = await exchange(port, b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
            assert kept.count(b"Connection: keep-alive") == 2
            close = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            assert statuses(await exchange(port, close + close, end=False)) == [200]
            absolute = await exchange(port, b"GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n")
            assert absolute.endswith(b"/c")
            assert re.search(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", absolute)

    run(main())


def test_a_field_is_not_split_in_two_and_a_file_that_shrinks_ends_its_connection(caplog):
    async def main():
        async with serving() as (_, _, port):
            assert await exchange(port, b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n") == b""
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /lies HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
            got = b""
            with contextlib.suppress(ConnectionError):
                while more := await reader.read(65536):
                    got += more
            assert got.count(b"HTTP/1.1") <= 1  # never taken for the next response
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


def test_responses_are_reported():
    reports = []

    async def main():
        async with serving(on_response=lambda *report: reports.append(report)) as (_, _, port):
            await exchange(port, b"GET /file HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n")

    run(main())
    assert [
        (request and request.path, status, sent) for request, status, sent, _, _ in reports
    ] == [
        ("/file", 200, 5),
        (None, 501, len("The server does not know the request's method.\n")),
    ]
    assert reports[0][4] == "127.0.0.1"


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_a_closed_connection_leaves_no_reference_cycle(body):
    head = b"PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def main():
        async with serving() as (state, _, port):
            gc.collect()
            gc.disable()
            try:
                assert statuses(await exchange(port, head + body)) == [201]
                await loops.until(lambda: not state.connections)
                await asyncio.sleep(0)
                assert not any(isinstance(each, RequestReceiver) for each in gc.get_objects())
            finally:
                gc.enable()

    run(main())
