"""Connected pairs of endpoints, created in each way that asyncio offers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from support.fuzz.endpoints import Endpoint
from support.fuzz.harness import Violations
from support.loops import client_context, server_context

KINDS = ("tcp", "unix", "pair", "accepted")

numbers = count()


@contextlib.asynccontextmanager
async def connected(first: Endpoint, second: Endpoint, kind: str, tls: bool) -> AsyncIterator[None]:
    """Connect the two endpoints; `first` is the client."""
    loop = asyncio.get_running_loop()
    secure: dict[str, Any] = {}
    accepted: dict[str, Any] = {}
    if tls:
        secure = {"ssl": client_context(), "server_hostname": "localhost"}
        accepted = {"ssl": server_context()}
    server: Any = None
    if kind == "tcp":
        server = await loop.create_server(second.make_protocol, "127.0.0.1", 0, **accepted)
        address = server.sockets[0].getsockname()
        await loop.create_connection(first.make_protocol, *address, **secure)
    elif kind == "unix":
        path = f"\0noria-fuzz-{os.getpid()}-{next(numbers)}"
        server = await loop.create_unix_server(second.make_protocol, path, **accepted)
        await loop.create_unix_connection(first.make_protocol, path, **secure)
    else:
        near, far = socket.socketpair() if kind == "pair" else tcp_pair()
        accepting = loop.connect_accepted_socket(second.make_protocol, far, **accepted)
        connecting = loop.create_connection(first.make_protocol, sock=near, **secure)
        await asyncio.gather(accepting, connecting)
    await second.made
    try:
        yield
    finally:
        for endpoint in (first, second):
            endpoint.quiet = True
            if endpoint.transport is not None and not endpoint.lost.done():
                endpoint.transport.abort()
        if server is not None:
            server.close()
            await server.wait_closed()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def make_pair(
    name: str, rng: random.Random, violations: Violations, model: str, **options: Any
) -> tuple[Endpoint, Endpoint]:
    """Return two endpoints that are each other's peer, not yet connected."""
    first = Endpoint(f"{name} client", rng, violations, model, **options)
    second = Endpoint(f"{name} server", rng, violations, model, **options)
    first.peer, second.peer = second, first
    return first, second
