"""Clients on an event loop of choice: loop_client.py LOOP PORT CONNECTIONS BYTES SECONDS.

Each client repeatedly sends a message and waits for its echo. Prints echoes a second, and the
shares of time the process ran and waited for a processor.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from protocol import raise_descriptor_limit

from noria.compare.loops.peers.common import loop_factory

WARMUP = 0.2


class Client(asyncio.Protocol):
    """One connection with one message in flight."""

    echoes = 0  # of all connections

    def __init__(self, message: bytes):
        self.message = message
        self.due = len(message)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.due -= len(data)
        if not self.due:
            self.due = len(self.message)
            Client.echoes += 1
            self.transport.write(self.message)


class ShortConnection(asyncio.Protocol):
    """A connection that ends before the measurement."""

    def __init__(self, closed: asyncio.Future[None]):
        self.closed = closed

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(None)


def run_queue_seconds() -> float:
    """Return seconds this thread was runnable but waited for a core (schedstat)."""
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


async def main(port: int, connections: int, size: int, seconds: float) -> None:
    """Connect the clients, measure, and print the result."""
    raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    # One connection ends first, for the reason given in `serving` of rows/row.py.
    closed = loop.create_future()
    transport, _ = await loop.create_connection(lambda: ShortConnection(closed), "127.0.0.1", port)
    transport.write_eof()
    await closed
    message = bytes(i & 0xFF for i in range(size))
    made = [
        await loop.create_connection(lambda: Client(message), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(WARMUP)
    then = Client.echoes, time.monotonic(), time.process_time(), run_queue_seconds()
    await asyncio.sleep(seconds)
    now = Client.echoes, time.monotonic(), time.process_time(), run_queue_seconds()
    count, passed, cpu, waited = (b - a for a, b in zip(then, now, strict=True))
    print(count / passed, cpu / passed, waited / passed, flush=True)
    for transport, _ in made:
        transport.abort()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(main(*map(int, sys.argv[2:5]), float(sys.argv[5])))
