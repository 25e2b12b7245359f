"""The first io_uring model of a process is tested with one request, and then used."""

from __future__ import annotations

import pytest

from noria import models
from support.running import run

pytestmark = pytest.mark.skipif(
    not models.availability("io_uring")[0], reason="io_uring does not work here"
)


def test_the_test_request_is_not_counted() -> None:
    run(
        """
from noria import models
first, second = models.make("io_uring"), models.make("io_uring")
assert first.stats() == second.stats(), (first.stats(), second.stats())
first.close()
second.close()
"""
    )


def test_another_thread_runs_the_model_that_was_tested() -> None:
    run(
        """
import asyncio, threading
import noria
async def main():
    async def echo(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    done.append(await reader.read())
    writer.close()
    server.close()
done = []
loop = noria.new_event_loop("io_uring")
thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
thread.start()
thread.join()
loop.run_until_complete(main())
loop.close()
assert done == [b"hello", b"hello"], done
"""
    )


def test_the_process_has_one_ring() -> None:
    run(
        """
import os
from noria import models
def rings():
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += "io_uring" in os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return found
model = models.make("io_uring")
assert rings() == 1
model.close()
assert rings() == 0
"""
    )
