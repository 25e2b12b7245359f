"""The server of the live page: HTTP on noria's own loop, for browsers that send the token.

Other users of the machine can connect to a port of 127.0.0.1 too. The path therefore begins with a
random token, and without it every response is 404.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

from noria.aio.run import run
from noria.http.messages import HTTPException, Request, Response
from noria.http.protocol import HTTPProtocol
from noria.http.server_state import ServerState

TOKEN_BYTES = 16
DRAIN_SECONDS = 1.0
HEADERS = [
    ("Cache-Control", "no-store"),
    # The address has the token: it must not reach other sites.
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]


class Page(Protocol):
    """A page that fetches new figures. Both methods are called in threads."""

    policy: str  # the value of Content-Security-Policy

    def document(self) -> bytes:
        """Return the HTML; its scripts fetch `data`, relative to its address."""

    def data(self, query: dict[str, str]) -> bytes:
        """Return the JSON of the newest figures."""


class PageHandler:
    """Answers GET /TOKEN/ and GET /TOKEN/data."""

    def __init__(self, page: Page) -> None:
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self._page = page

    async def __call__(self, request: Request) -> Response:
        """Return the page, or its data."""
        token, slash, name = request.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise HTTPException(404, "Open the address that noria top has printed.")
        if request.method not in ("GET", "HEAD"):
            raise HTTPException(405, "Only GET is allowed.", headers=[("Allow", "GET, HEAD")])
        if not slash:
            return Response(308, [*HEADERS, ("Location", f"/{self.token}/")])
        if name == "":
            return Response(
                200,
                [
                    *HEADERS,
                    ("Content-Type", "text/html; charset=utf-8"),
                    ("Content-Security-Policy", self._page.policy),
                ],
                await asyncio.to_thread(self._page.document),
            )
        if name == "data":
            body = await asyncio.to_thread(self._page.data, request.query)
            return Response(200, [*HEADERS, ("Content-Type", "application/json")], body)
        raise HTTPException(404, "There is no such page.")


@contextlib.asynccontextmanager
async def serving(page: Page, host: str, port: int) -> AsyncIterator[str]:
    """Serve a page on the running loop; yield its address. Raises OSError."""
    handler = PageHandler(page)
    state = ServerState(handler)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(HTTPProtocol, state), host, port)
    state.start()
    try:
        address = server.sockets[0].getsockname()
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{address[1]}/{handler.token}/"
    finally:
        server.close()
        await state.drain(DRAIN_SECONDS)
        state.stop()
        await server.wait_closed()


def serve_until_signal(page: Page, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve a page until SIGINT or SIGTERM; *announce* gets its address. Raises OSError."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with serving(page, host, port) as address:
            announce(address)
            await stop.wait()

    run(main())
