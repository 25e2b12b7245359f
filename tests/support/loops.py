"""Helpers of the tests of the asyncio loop: models, a recording protocol, TLS, counts."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import noria

MODELS = ("select", "poll", "epoll", "epoll-edge", "io_uring")
# asyncio's own loop, in place of a model
ORACLE = "asyncio"

FULL = os.environ.get("NORIA_COUNTS") == "full"
# Added to the seeds of the random tests.
SEED = os.environ.get("NORIA_SEED", "")

# a certificate for localhost, and its key
CERTIFICATE = Path(__file__).parents[1] / "data" / "localhost.pem"

T = TypeVar("T")


def count(usual: int, full: int) -> int:
    """The number of repetitions: `usual`, or `full` with NORIA_COUNTS=full."""
    return full if FULL else usual


def run(main: Coroutine[Any, Any, T], model: str) -> T:
    """Run the coroutine on a model, or on asyncio's own loop."""
    return asyncio.run(main) if model == ORACLE else noria.run(main, model=model)


def run_with_deadline(
    main: Coroutine[Any, Any, T],
    seconds: float,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run the coroutine on asyncio's loop or another; TimeoutError if it has not ended by then."""

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await main

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(limited())


class Keeper(asyncio.Protocol):
    """Records what it receives."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[Any] = loop.create_future()
        self.lost: asyncio.Future[Any] = loop.create_future()
        self.data = bytearray()
        self.eof = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.eof = True
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def pair(
    secure: bool = False, **server_options: Any
) -> tuple[Keeper, Keeper, asyncio.AbstractServer]:
    """Open a TCP connection; return the client's and the server's protocol, and the server."""
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    def factory() -> Keeper:
        keeper = Keeper()
        accepted.set_result(keeper)
        return keeper

    client_options: dict[str, Any] = {}
    if secure:
        client_options = {"ssl": client_context(), "server_hostname": "localhost"}
        server_options["ssl"] = server_context()
    server = await loop.create_server(factory, "127.0.0.1", 0, **server_options)
    _, client = await loop.create_connection(
        Keeper, *server.sockets[0].getsockname()[:2], **client_options
    )
    keeper = await accepted
    await keeper.made
    return client, keeper, server


async def until(true: Callable[[], object]) -> None:
    """Wait until `true()` returns a true value, at most until the test's own timeout."""
    while not true():
        await asyncio.sleep(0.001)


async def until_async(true: Callable[[], Awaitable[object]]) -> None:
    """Wait until `await true()` is a true value, at most until the test's own timeout."""
    while not await true():
        await asyncio.sleep(0.01)


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


def reset(sock: socket.socket) -> None:
    """Close the connection with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def alive(*endings: str) -> Counter[str]:
    """Count live objects of noria's and asyncio's types, by type; names end in `endings`."""
    gc.collect()
    return Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith(("noria", "asyncio", "_asyncio"))
        and type(thing).__name__.endswith(endings)
    )
