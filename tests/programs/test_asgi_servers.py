"""uvicorn, hypercorn and gunicorn, started from the command line on noria's loop."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import pytest
from starting import free_port, started

httpx = pytest.importorskip("httpx")
websockets = pytest.importorskip("websockets")

SERVERS = ("uvicorn", "uvicorn-tls", "uvicorn-h11", "gunicorn", "hypercorn")


def command(server: str, port: int, certificates: dict[str, Any]) -> list[str]:
    module = server.partition("-")[0]
    pytest.importorskip(module)
    start = [sys.executable, "-m", module]
    if module == "gunicorn":
        pytest.importorskip("uvicorn_worker")
        worker = "gunicorn_worker.NoriaWorker"
        return [*start, "-k", worker, "-w", "2", "-b", f"127.0.0.1:{port}", "asgi_app:application"]
    if module == "hypercorn":
        return [sys.executable, "-m", "hypercorn_on_noria", str(port)]
    found = [*start, "asgi_app:application", "--loop", "noria:new_event_loop", "--port", str(port)]
    if server == "uvicorn-tls":
        found += ["--ssl-keyfile", certificates["key"], "--ssl-certfile", certificates["cert"]]
    if server == "uvicorn-h11":
        found += ["--http", "h11"]
    return found


@pytest.mark.parametrize("server", SERVERS)
def test_serves_and_stops_on_sigterm(server: str, certificates: dict[str, Any]) -> None:
    port = free_port()
    secure = certificates["client"] if server.endswith("tls") else None
    scheme = "s" if secure else ""
    body = random.Random(1).randbytes(2_000_000)

    async def use() -> None:
        base = f"http{scheme}://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, verify=secure or False, timeout=30) as client:
            assert (await client.get("/loop")).text == "noria.aio.loop.EventLoop"
            assert (await client.post("/echo", content=body)).content == body
            many = await asyncio.gather(
                *(client.post("/echo", content=b"%d" % n) for n in range(200))
            )
            assert [answer.text for answer in many] == [str(n) for n in range(200)]
        async with websockets.connect(f"ws{scheme}://127.0.0.1:{port}/", ssl=secure) as socket:
            for message in ("text", b"bytes", "x" * 300_000):
                await socket.send(message)
                assert await socket.recv() == message
        # uvicorn fails on SIGTERM while a WebSocket is closing, so wait for the close first.
        async with httpx.AsyncClient(base_url=base, verify=secure or False, timeout=30) as client:
            assert (await client.get("/loop")).text == "noria.aio.loop.EventLoop"

    # uvicorn raises the signal again after its shutdown.
    status = -15 if server.startswith("uvicorn") else 0
    with started(*command(server, port, certificates), port=port, status=status):
        asyncio.run(use())
