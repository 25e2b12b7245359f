"""Clients on an event loop of choice: loop_client.py LOOP PORT CONNECTIONS BYTES SECONDS.

All of them send a message and wait for its echo, again and again. Prints how many came back in a
second, and which share of that time the process had a processor.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from loops import loop_factory
from protocol import raise_descriptor_limit

WARMUP = 0.2


class Client(asyncio.Protocol):
    """One connection with one message under way."""

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


async def main(port: int, connections: int, size: int, seconds: float) -> None:
    """Connect, run, print."""
    raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    message = bytes(i & 0xFF for i in range(size))
    made = [
        await loop.create_connection(lambda: Client(message), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(WARMUP)
    count, began, cpu = Client.echoes, time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    count, passed = Client.echoes - count, time.monotonic() - began
    print(count / passed, (time.process_time() - cpu) / passed, flush=True)
    for transport, _ in made:
        transport.abort()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[1])) as runner:
        runner.run(main(*map(int, sys.argv[2:5]), float(sys.argv[5])))
