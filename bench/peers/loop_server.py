"""A server on a chosen event loop: loop_server.py LOOP KIND [--unix PATH] [--tls CERT KEY].

KIND is a key of KINDS, or udp. Prints "listening PORT"; a Unix socket's port is 0. SIGTERM stops
it.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import echoes
import frameworks
import sendfile_server
from protocol import BACKLOG, Echo, raise_descriptor_limit
from replies import Reply

from noria.compare.loops.peers.common import loop_factory

# The result is referenced until the process exits. If it is a future, it is awaited, so that its
# exception ends the server.
Kind = Callable[[socket.socket, ssl.SSLContext | None], Coroutine[Any, Any, Any]]


async def protocols(
    factory: Callable[[], Any], listener: socket.socket, tls: ssl.SSLContext | None
) -> Any:
    """Start a server that creates a protocol per connection."""
    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(factory, sock=listener, ssl=tls, backlog=BACKLOG)
    return await loop.create_server(factory, sock=listener, ssl=tls, backlog=BACKLOG)


async def streams(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    return await asyncio.start_server(echoes.stream, sock=listener, ssl=tls, backlog=BACKLOG)


async def own_streams(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    """Start noria.start_server by host and port, as a program does."""
    import noria

    if not hasattr(noria, "start_server"):
        raise NotImplementedError("this version of noria has no start_server")
    host, port = listener.getsockname()
    listener.close()
    return await noria.start_server(echoes.stream, host, port, ssl=tls, backlog=BACKLOG)


async def sock(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    return asyncio.ensure_future(echoes.accept(listener))


async def sendfile(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    loop = asyncio.get_running_loop()
    if type(loop).sendfile is asyncio.AbstractEventLoop.sendfile:
        raise NotImplementedError("the loop has no sendfile")
    failed = loop.create_future()
    descriptor = sendfile_server.zero_file()
    server = await protocols(partial(sendfile_server.SendFile, descriptor, failed), listener, tls)
    failed.add_done_callback(lambda _: server.close())
    return failed


async def uvicorn(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    return asyncio.ensure_future(frameworks.uvicorn(listener))


async def fastapi(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    return asyncio.ensure_future(frameworks.uvicorn(listener, frameworks.fastapi_app()))


async def aiohttp(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    return asyncio.ensure_future(frameworks.aiohttp(listener))


KINDS: dict[str, Kind] = {
    "protocol": partial(protocols, Echo),
    "buffered": partial(protocols, echoes.BufferedEcho),
    "reply": partial(protocols, Reply),
    "streams": streams,
    "own-streams": own_streams,
    "sock": sock,
    "sendfile": sendfile,
    "uvicorn": uvicorn,
    "fastapi": fastapi,
    "aiohttp": aiohttp,
}


async def datagrams() -> Any:
    """Serve datagrams until the process is ended."""
    loop = asyncio.get_running_loop()
    where = ("127.0.0.1", 0)
    transport, _ = await loop.create_datagram_endpoint(echoes.Datagrams, local_addr=where)
    print("listening", transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


def listen(path: str | None) -> socket.socket:
    """Return a listening socket, at the path or on a port chosen by the kernel."""
    if path is None:
        # asyncio sets TCP_NODELAY only if the socket's protocol is IPPROTO_TCP.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def main(options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    raise_descriptor_limit()
    if options.kind == "udp":
        await datagrams()
    tls = None
    if options.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*options.tls)
    listener = listen(options.unix)
    # Read the port now: some loops detach the descriptor from the socket.
    port = 0 if options.unix else listener.getsockname()[1]
    kept = await KINDS[options.kind](listener, tls)
    print("listening", port, flush=True)
    await (kept if isinstance(kept, asyncio.Future) else asyncio.Event().wait())


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("loop")
    p.add_argument("kind", choices=[*KINDS, "udp"])
    p.add_argument("--unix", metavar="PATH")
    p.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    arguments = p.parse_args()
    with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
        runner.run(main(arguments))
