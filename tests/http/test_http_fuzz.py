"""Random and damaged requests are parsed the same however their bytes are divided."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support import loops
from support.loops import SEED, count

pytest.importorskip("httptools")

import noria
from noria.http.messages import Request, Response
from support.http_server import serving, statuses

SEEDS = count(60, 2000)

LINE = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [^\x00-\x20\x7f]+ HTTP/[0-9]\.[0-9]\r\n"
)  # RFC 9112, 3
NOISE = [
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b":",
    b"\r\r\n",
    b"\n\n",
    b"\x0b",
    b"0",
    b"GET ",
]


def request(dice: random.Random) -> bytes:
    """One that is valid; its body looks like requests."""
    path = dice.choice([b"/a", b"/b?c=d", b"http://a/e", b"/%20"])
    fields = [b"Host: a", *dice.sample([b"X: y", b"Upgrade: x\r\nConnection: upgrade"], 1)]
    body = dice.choice(
        [b"", b"\r\n", b"\r\n\r\n", b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n", b"x" * 50]
    )
    kind = dice.randrange(3)
    if kind == 0:
        method, body = b"GET", b""
    elif kind == 1:
        method = b"PUT"
        fields.append(b"Content-Length: %d" % len(body))
    else:
        method = b"PUT"
        fields.append(b"Transfer-Encoding: chunked")
        size = dice.randrange(1, 60)
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        extension, trailer = dice.choice([b"", b";a=b"]), dice.choice([b"", b"T: u\r\n"])
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(each), extension, each) for each in chunks)
        body += b"0\r\n" + trailer + b"\r\n"
    dice.shuffle(fields)
    head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, path, b"\r\n".join(fields))
    return dice.choice([b"", b"", b"\r\n"]) + head + body


def damaged(dice: random.Random, data: bytes) -> bytes:
    at = dice.randrange(len(data) + 1)
    kind = dice.randrange(4)
    if kind == 0:
        return data[:at] + dice.choice(NOISE) + data[at:]
    if kind == 1:
        return data[:at] + data[at + dice.randrange(1, 4) :]
    if kind == 2:
        return data[:at] + dice.choice(NOISE) + data[at + 1 :]
    other = dice.randrange(len(data) + 1)
    return data[:at] + data[min(at, other) : max(at, other)] + data[at:]


@contextlib.asynccontextmanager
async def reading() -> AsyncIterator[tuple[Any, Any, int]]:
    """A server whose handler reads each body, so that no connection is closed before it arrives."""
    async with serving() as (state, service, port):

        async def handle(request: Request) -> Response:
            service.seen.append((request.method, request.path))
            data = b"".join([chunk async for chunk in request.body])
            return Response(200, body=b"%d" % len(data))

        state.handler = handle
        yield state, service, port


async def answers(state: Any, service: Any, port: int, pieces: list[bytes]) -> tuple[Any, ...]:
    """The statuses, and what the service was asked for, of bytes that arrive in these pieces."""
    service.seen.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await loops.until(lambda: len(state.connections) == 1)
    (connection,) = state.connections
    for piece in pieces:
        if not connection.closed:
            connection.data_received(piece)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    await loops.until(lambda: not state.connections)
    assert state.active_uploads == 0
    return statuses(answer), list(service.seen)


def cut(dice: random.Random, data: bytes) -> list[bytes]:
    most = dice.choice([1, 2, 5, 40, 400])
    pieces, at = [], 0
    while at < len(data):
        size = dice.randrange(1, most + 1)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def test_valid_requests_in_any_pieces() -> None:
    async def main() -> None:
        async with reading() as (state, service, port):
            for seed in range(SEEDS):
                dice = random.Random(f"{SEED}valid{seed}")
                requests = [request(dice) for _ in range(dice.randrange(1, 5))]
                data = b"".join(requests)
                found = await answers(state, service, port, cut(dice, data))
                assert len(found[0]) == len(found[1]) == len(requests), (seed, data, found)
                assert set(found[0]) == {200}, (seed, data)
                assert "/inner" not in [path for _, path in found[1]]
                assert await answers(state, service, port, [data]) == found, (seed, data)

    noria.run(main())


def test_damaged_requests_in_any_pieces() -> None:
    async def main() -> None:
        async with reading() as (state, service, port):
            for seed in range(SEEDS):
                dice = random.Random(f"{SEED}damaged{seed}")
                data = b"".join(request(dice) for _ in range(dice.randrange(1, 4)))
                for _ in range(dice.randrange(1, 3)):
                    data = damaged(dice, data)
                whole = await answers(state, service, port, [data])
                pieces = await answers(state, service, port, cut(dice, data))
                # If there are several faults, another one may be found first.
                found = [[each // 100 * (each < 400) for each in one[0]] for one in (whole, pieces)]
                if len(whole[0]) < len(whole[1]):
                    # An endless body closes the connection, and unsent responses are lost.
                    length = min(map(len, found))
                    found = [each[:length] for each in found]
                assert found[0] == found[1], (seed, data)
                assert whole[1] == pieces[1], (seed, data)
                # Each request that reached the handler has a valid request line (RFC 9112).
                assert len(whole[1]) <= len(LINE.findall(data)), (seed, data)
                first = re.match(rb"(?:\r\n)*", data)
                assert first is not None
                if data and not LINE.match(data, first.end()):
                    assert whole[1] == [], (seed, data)

    noria.run(main())
