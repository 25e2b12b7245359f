"""Limits on connections, uploads and slow clients; draining."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

import pytest

from support import loops

pytest.importorskip("httptools")

from noria.http.limits import Limits
from support.http_server import exchange, run, serving, statuses


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
            assert statuses(await exchange(port, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")) == [200]
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
            linger = struct.pack("ii", 1, 0)  # a reset: after a FIN the client may still read
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
            answer = await exchange(port, b"", end=False)
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
            # One closes during its handshake, one does not speak TLS.
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
    """Timeouts are checked with a later time instead of waiting."""

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
            now = statuses(await exchange(port, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"))
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
            assert await exchange(port, b"", end=False) == b""

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


def test_limits_that_make_no_sense():
    with pytest.raises(ValueError, match="idle_timeout must be above 0, not 0"):
        Limits(idle_timeout=0)
