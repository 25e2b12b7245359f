"""An HTTP server with a small service, and a client that sends bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
from functools import partial

import pytest

from support import loops

pytest.importorskip("httptools")

import noria
from noria.http.messages import FileBody, HTTPException, Response
from noria.http.protocol import HTTPProtocol
from noria.http.server_state import ServerState
from noria.http.tls import TLSProtocolFactory

BIG = bytes(range(256)) * 4096  # 1 MiB


class Service:
    """A handler; the first name of the path selects the method that responds."""

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


async def exchange(port, raw, end=True):
    """Send `raw`; return all that the server sends until it closes."""
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
