"""A server on an event loop: python -m noria.compare.loops.peers.server CORES LOOP KIND.

KIND is a key of KINDS. It replies with one line of JSON, {"port": PORT} or {"error": TEXT}, and
serves until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from noria.compare.loadgen.descriptor_limit import raise_descriptor_limit
from noria.compare.loops.peers.common import loop_factory, pin, reason
from noria.compare.measure.child import die_with_parent, reply
from noria.servers.echo import Echo

BACKLOG = 4096  # connections; no server refuses the clients, which connect at once
READ_SIZE = 64 * 1024
CERTIFICATE = Path(__file__).with_name("loopback.pem")
BODY = b"Hello, world!\n"
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(BODY))]


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo one connection of a stream server."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    writer.close()


async def protocol(listener: socket.socket, tls: ssl.SSLContext | None = None) -> Any:
    """Start an echo server that creates a protocol for each connection."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(Echo, sock=listener, ssl=tls, backlog=BACKLOG)


async def secure_protocol(listener: socket.socket) -> Any:
    """Start `protocol` over TLS, with the certificate for measurements on this machine."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    return await protocol(listener, tls)


async def streams(listener: socket.socket) -> Any:
    """Start an echo server of asyncio's streams."""
    return await asyncio.start_server(echo_stream, sock=listener, backlog=BACKLOG)


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """The smallest ASGI application."""
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def uvicorn(listener: socket.socket, app: Any = hello, **options: Any) -> Any:
    """Start uvicorn, with httptools if that is installed; return the future of its end."""
    from uvicorn import Config, Server

    config = Config(
        app,
        loop="none",  # the running loop
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="error",
        backlog=BACKLOG,
        **options,
    )
    return asyncio.ensure_future(Server(config).serve(sockets=[listener]))


KINDS: dict[str, Callable[[socket.socket], Coroutine[Any, Any, Any]]] = {
    "protocol": protocol,
    "tls": secure_protocol,
    "streams": streams,
    "uvicorn": uvicorn,
}


def listen() -> socket.socket:
    """Return a listening socket on a port that the kernel chooses."""
    # asyncio sets TCP_NODELAY only if the socket's protocol is IPPROTO_TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def serve(cores: str, kind: str) -> None:
    """Serve until the process is killed."""
    pin(cores)
    listener = listen()
    # Read the port now: some loops detach the descriptor from the socket.
    port = listener.getsockname()[1]
    started = await KINDS[kind](listener)
    reply({"port": port})
    # A future's exception ends the server.
    await (started if isinstance(started, asyncio.Future) else asyncio.Event().wait())


def main(cores: str, loop: str, kind: str) -> int:
    """Run the server; return the exit status."""
    die_with_parent()
    raise_descriptor_limit()
    try:
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            runner.run(serve(cores, kind))
    except Exception as error:
        reply({"error": reason(error), "kind": type(error).__name__})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
