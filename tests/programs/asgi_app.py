"""An ASGI application without a framework that reports which loop it runs on."""

from __future__ import annotations

import asyncio
import os
from typing import Any


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve /loop (its class), /pid, /echo (the body, in chunks) and an echoing WebSocket."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            answer = {k: message[k] for k in ("text", "bytes") if message.get(k) is not None}
            await send({"type": "websocket.send", **answer})
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/loop":
        loop = type(asyncio.get_running_loop())
        body = f"{loop.__module__}.{loop.__qualname__}".encode()
    elif scope["path"] == "/pid":
        body = str(os.getpid()).encode()
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for start in range(0, len(body), 50_000):
        piece = body[start : start + 50_000]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
