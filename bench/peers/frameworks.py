"""Web servers as a program uses them: uvicorn with httptools, and aiohttp."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from protocol import BACKLOG
from replies import BODY

HEADERS = [
    (b"content-type", b"text/plain"),
    (b"content-length", str(len(BODY)).encode()),
]


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest ASGI application."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def fastapi_app() -> Any:
    """Return a FastAPI application with one route that returns JSON."""
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None)

    @app.get("/")
    async def greet() -> dict[str, str]:
        return {"greeting": "Hello, world!"}

    return app


async def uvicorn(listener: socket.socket, app: Any = hello) -> None:
    """Serve an ASGI application until the process is ended."""
    from uvicorn import Config, Server

    config = Config(
        app,
        http="httptools",
        loop="none",  # the running loop
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
        backlog=BACKLOG,
    )
    await Server(config).serve(sockets=[listener])


async def aiohttp(listener: socket.socket) -> None:
    """Serve with aiohttp until the process is ended."""
    from aiohttp import web

    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=BODY, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=BACKLOG).start()
    await asyncio.Event().wait()
