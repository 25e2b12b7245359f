"""aiohttp's server and client, httpx and websockets in one process, on each model."""

from __future__ import annotations

import asyncio
import io
import random
from typing import Any

import pytest

aiohttp = pytest.importorskip("aiohttp")
httpx = pytest.importorskip("httpx")
websockets = pytest.importorskip("websockets")
web = pytest.importorskip("aiohttp.web")

BODY = random.Random(2).randbytes(1_500_000)


async def echo(request: Any) -> Any:
    """Stream the request body back."""
    response = web.StreamResponse()
    await response.prepare(request)
    async for piece in request.content.iter_chunked(30_000):
        await response.write(piece)
    await response.write_eof()
    return response


async def talk(request: Any) -> Any:
    """Echo WebSocket messages."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def sleep(request: Any) -> Any:
    """Never answers."""
    await asyncio.sleep(3600)


async def site(ssl: Any) -> tuple[Any, int]:
    application = web.Application(client_max_size=10_000_000)
    application.add_routes([web.post("/", echo), web.get("/ws", talk), web.get("/sleep", sleep)])
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl).start()
    return runner, runner.addresses[0][1]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_aiohttp(run: Any, certificates: dict[str, Any], secure: bool) -> None:
    async def main() -> None:
        runner, port = await site(certificates["server"] if secure else None)
        client_ssl = certificates["client"] if secure else False
        base = f"http{'s' if secure else ''}://127.0.0.1:{port}"
        connector = aiohttp.TCPConnector(ssl=client_ssl)
        async with aiohttp.ClientSession(base, connector=connector) as client:

            async def ask(body: bytes) -> None:
                async with client.post("/", data=io.BytesIO(body)) as answer:
                    assert await answer.read() == body

            await ask(BODY)
            await asyncio.gather(*(ask(b"%d" % n) for n in range(100)))
            async with client.ws_connect("/ws") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
            with pytest.raises(asyncio.TimeoutError):
                await client.get("/sleep", timeout=aiohttp.ClientTimeout(total=0.05))
            task = asyncio.ensure_future(client.get("/sleep"))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await runner.cleanup()
        await asyncio.sleep(0.05)  # aiohttp closes TLS connections in the background

    run(main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_httpx(run: Any, certificates: dict[str, Any], secure: bool) -> None:
    async def main() -> None:
        runner, port = await site(certificates["server"] if secure else None)
        base = f"http{'s' if secure else ''}://127.0.0.1:{port}"
        verify = certificates["client"] if secure else False
        async with httpx.AsyncClient(base_url=base, verify=verify, timeout=30) as client:
            assert (await client.post("/", content=BODY)).content == BODY
            answers = await asyncio.gather(*(client.post("/", content=b"x") for _ in range(50)))
            assert {answer.content for answer in answers} == {b"x"}
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/sleep", timeout=0.05)
        await runner.cleanup()

    run(main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_websockets(run: Any, certificates: dict[str, Any], secure: bool) -> None:
    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        server_ssl = certificates["server"] if secure else None
        client_ssl = certificates["client"] if secure else None
        async with websockets.serve(echo, "127.0.0.1", 0, ssl=server_ssl) as server:
            port = server.sockets[0].getsockname()[1]
            address = f"ws{'s' if secure else ''}://127.0.0.1:{port}"
            async with websockets.connect(address, ssl=client_ssl) as socket:
                for message in ("one", b"two", "x" * 400_000):
                    await socket.send(message)
                    assert await socket.recv() == message
                await (await socket.ping())
                await socket.close(1000, "enough")
                assert socket.close_code == 1000

    run(main())


def test_anyio(run: Any) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

        async def serve(stream: Any) -> None:
            async with stream:
                async for data in stream:
                    await stream.send(data)

        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
            done = await anyio.run_process(["echo", "out"])
            assert done.stdout == b"out\n"
            assert await anyio.to_thread.run_sync(lambda: 7) == 7
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep_forever()
            assert scope.cancelled_caught
            group.cancel_scope.cancel()
        await listener.aclose()

    run(main())
