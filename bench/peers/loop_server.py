"""A server on an event loop of choice: loop_server.py LOOP KIND [--unix PATH] [--tls CERT KEY].

KIND is one of those in KINDS, or udp. Prints "listening PORT"; a Unix socket's port is 0. SIGTERM
ends it.
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
from factories import loop_factory
from protocol import BACKLOG, Echo, raise_descriptor_limit
from replies import Reply

# What a kind makes is kept for as long as the process runs; a future is awaited, so that what it
# raises ends the server with its reason.
Kind = Callable[[socket.socket, ssl.SSLContext | None], Coroutine[Any, Any, Any]]


async def protocols(
    factory: Callable[[], Any], listener: socket.socket, tls: ssl.SSLContext | None
) -> Any:
    """A protocol for each connection."""
    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(factory, sock=listener, ssl=tls, backlog=BACKLOG)
    return await loop.create_server(factory, sock=listener, ssl=tls, backlog=BACKLOG)


async def streams(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    return await asyncio.start_server(echoes.stream, sock=listener, ssl=tls, backlog=BACKLOG)


async def own_streams(listener: socket.socket, tls: ssl.SSLContext | None) -> Any:
    """noria's own streams, as a program calls them: by host and port."""
    import noria

    if not hasattr(noria, "start_server"):
        raise NotImplementedError("this noria has no streams of its own")
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
    """The server that has no listener."""
    loop = asyncio.get_running_loop()
    where = ("127.0.0.1", 0)
    transport, _ = await loop.create_datagram_endpoint(echoes.Datagrams, local_addr=where)
    print("listening", transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


def listen(path: str | None) -> socket.socket:
    """A socket that listens, on a port of the machine's choice or at the path."""
    if path is None:
        # With its protocol named: asyncio sets TCP_NODELAY only where it is.
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
    # Asked now: some loops take the descriptor out of the socket.
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
