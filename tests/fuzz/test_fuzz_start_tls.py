"""start_tls at a random point of a connection, with data buffered on either side."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from support.fuzz.endpoints import Endpoint, end_anyhow, end_gracefully
from support.fuzz.harness import Violations, fuzz, run_checked
from support.fuzz.pairs import KINDS, connected, make_pair
from support.loops import ORACLE, client_context, server_context


async def upgrade(endpoint: Endpoint, server_side: bool, timeout: float | None) -> None:
    """Replace the endpoint's transport with one that speaks TLS."""
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"server_side": server_side, "ssl_handshake_timeout": timeout}
    context = server_context() if server_side else client_context()
    if not server_side:
        options["server_hostname"] = "localhost"
    endpoint.tls = True
    endpoint.paused = False
    if endpoint.model == ORACLE and endpoint.transport.is_closing():
        raise ConnectionAbortedError  # asyncio's start_tls would never return
    endpoint.transport = await loop.start_tls(
        endpoint.transport, endpoint.protocol, context, **options
    )


async def upgrade_server(server: Endpoint, timeout: float | None = None) -> None:
    """Receive all of the client's plain bytes, write more, and start TLS after them."""
    await server.wait_for_bytes()
    if server.model == ORACLE:
        # asyncio loses the state of its flow control in start_tls.
        server.transport.set_write_buffer_limits(high=1 << 30)
        while server.writing_paused:
            await asyncio.sleep(0.0002)
    for _ in range(server.rng.randrange(3)):
        server.write()
    await upgrade(server, True, timeout)


async def upgrade_client(
    client: Endpoint, upgrading: asyncio.Task[None], timeout: float | None = None
) -> None:
    """Read the server's buffered bytes slowly, and start TLS after the last plain byte."""
    if client.rng.random() < 0.5 and not client.paused:
        client.pause_reading()
        await asyncio.sleep(client.rng.choice((0, 0.001)))
    while not client.peer.tls:  # the server may write more plain bytes
        if upgrading.done():
            return
        if client.model == ORACLE and client.paused:
            client.resume_reading()
        await asyncio.sleep(0)
    await client.wait_for_bytes()
    await upgrade(client, False, timeout)


async def play_pair(client: Endpoint, server: Endpoint, kind: str) -> None:
    try:
        async with connected(client, server, kind, False):
            await asyncio.gather(client.play(), server.play())
            client.quiet = server.quiet = True
            upgrading = asyncio.ensure_future(upgrade_server(server))
            await asyncio.gather(upgrading, upgrade_client(client, upgrading))
            for endpoint in (client, server):
                endpoint.check(endpoint.transport is not None, "start_tls returned None")
                endpoint.quiet = False
            await asyncio.gather(client.play(), server.play())
            await (end_anyhow if client.may_end else end_gracefully)(client, server)
    finally:
        await client.side.close()
        await server.side.close()


async def interrupt_pair(client: Endpoint, server: Endpoint, kind: str) -> None:
    """Abort, close or cancel during the handshake: both start_tls calls must return."""
    rng = client.rng
    client.quiet = server.quiet = True
    try:
        async with connected(client, server, kind, False):
            server.write()
            transports = [client.transport, server.transport]
            # A handshake on a closed transport ends with its timeout.
            calls = [asyncio.ensure_future(upgrade_server(server, 0.5))]
            calls.append(asyncio.ensure_future(upgrade_client(client, calls[0], 0.5)))
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            at = rng.randrange(2)
            how = rng.choice((transports[at].abort, transports[at].close, calls[at].cancel))
            how()
            for call in calls:
                # asyncio raises RuntimeError if the connection is lost right after the handshake.
                also = RuntimeError if client.model == ORACLE else OSError
                with contextlib.suppress(OSError, also, asyncio.CancelledError):
                    await call
            for transport in transports:
                transport.abort()
            # A handshake that failed does not call connection_lost: nothing to wait for.
            for _ in range(5):
                await asyncio.sleep(0)
    finally:
        await client.side.close()
        await server.side.close()


@pytest.mark.parametrize("interrupted", [False, True], ids=["whole", "interrupted"])
def test_start_tls_keeps_plain_and_secure_bytes_apart(model: str, interrupted: bool) -> None:
    def one(rng: random.Random) -> None:
        async def main() -> None:
            violations = Violations()
            pairs = [
                make_pair(f"pair {n}", rng, violations, model) for n in range(rng.randrange(1, 4))
            ]
            play = interrupt_pair if interrupted else play_pair
            work = [play(*pair, rng.choice(KINDS)) for pair in pairs]
            await violations.guard(asyncio.gather(*work), lambda: pairs)

        run_checked(main, model)

    fuzz(one, 10, 400)
