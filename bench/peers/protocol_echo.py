"""An asyncio.Protocol echo server on a chosen event loop: protocol_echo.py LOOP [PORT].

LOOP is asyncio, uvloop, rloop or blazio. Prints "listening PORT". SIGTERM stops it.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from protocol import BACKLOG, Echo, raise_descriptor_limit

from noria.compare.loops.peers.common import loop_factory


async def main(port: int) -> None:
    """Serve until the process is ended."""
    raise_descriptor_limit()
    listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    # Read the port now: some loops detach the descriptor from the socket.
    port = listener.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(Echo, sock=listener, backlog=BACKLOG)
    print("listening", port, flush=True)
    await asyncio.Event().wait()
    server.close()


if __name__ == "__main__":
    factory = loop_factory(sys.argv[1])
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(int(sys.argv[2]) if len(sys.argv) > 2 else 0))
