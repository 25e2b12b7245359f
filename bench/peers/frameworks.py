"""Web servers as a program uses them: uvicorn with httptools, and aiohttp."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from protocol import BACKLOG
from replies import BODY

from noria.compare.loops.peers.server import hello
from noria.compare.loops.peers.server import uvicorn as start_uvicorn


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
    await (await start_uvicorn(listener, app, http="httptools"))


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
