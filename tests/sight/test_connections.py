"""Connections of real programs: what is recorded of them, and which code uses them."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest

import noria
from noria.sight import lifetime
from noria.sight.observation import LoopFigures
from noria.sight.recording import observe_recording

pytestmark = pytest.mark.usefixtures("runtime_directory")


def recorded(main: Callable[[], Coroutine[Any, Any, Any]], path: Path) -> LoopFigures:
    """Run a coroutine, and return the figures of its recording."""
    with noria.record(path, report_blocks=False):
        noria.run(main())
    (loop,) = observe_recording(path).loops
    return loop


def test_datagrams_are_told_from_streams(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        stream, _ = await loop.create_connection(asyncio.Protocol, *address)
        datagram, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        datagram.close()
        stream.close()
        server.close()
        await server.wait_closed()

    connections = recorded(main, tmp_path / "run.noria").connections
    assert {each.protocol: each.datagrams for each in connections} == {
        "asyncio.protocols.DatagramProtocol": True,
        "asyncio.protocols.Protocol": False,
    }


class Answers(asyncio.Protocol):
    """As a library's protocol: a task waits for a future of it."""

    made: ClassVar[list[asyncio.BaseTransport]] = []

    def __init__(self) -> None:
        self.answer = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)

    def data_received(self, data: bytes) -> None: ...


@contextlib.asynccontextmanager
async def server_of(protocol: type[Answers]) -> AsyncIterator[tuple[str, int]]:
    """Serve, and close all connections at the end."""
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        while protocol.made:
            protocol.made.pop().close()
        server.close()
        await server.wait_closed()


class Client:
    def __init__(self, protocol: Answers) -> None:
        self._protocol = protocol

    async def receive(self) -> None:
        await self._protocol.answer


async def waits_in(client: Client) -> None:
    await client.receive()


def test_the_user_of_a_protocol_is_the_task_that_waits_for_its_future() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        agent = lifetime.active()
        assert agent is not None
        async with server_of(Answers) as address:
            clients = [
                Client((await loop.create_connection(Answers, *address))[1]) for _ in range(2)
            ]
            task = asyncio.create_task(waits_in(clients[0]))
            await asyncio.sleep(0)
            snapshot = await asyncio.to_thread(agent.snapshot, fresh=True)
            task.cancel()
        (found,) = snapshot["loops"]
        ours = [each for each in found["connections"] if each["peer"].endswith(f":{address[1]}")]
        users = [each["user"] and each["user"][0] for each in ours]
        # No task waits for the other one: a method is no user.
        assert sorted(users, key=str) == ["Client.receive", None]
        assert {each["handler"][0] for each in ours} == {"Answers.data_received"}

    with noria.watch(report_blocks=False):
        noria.run(main())


def test_the_line_that_opened_a_connection_is_the_programs_rather_than_a_packages(
    tmp_path: Path,
) -> None:
    package = tmp_path / "site-packages" / "package.py"
    package.parent.mkdir()
    package.write_text("async def connect(loop, *args):\n    await loop.create_connection(*args)\n")
    names: dict[str, Any] = {}
    exec(compile(package.read_text(), package, "exec"), names)
    connect = names["connect"]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with server_of(Answers) as address:
            await connect(loop, Answers, *address)
            # The program has no frame in this task.
            await asyncio.create_task(connect(loop, Answers, *address))

    connections = recorded(main, tmp_path / "run.noria").connections
    opened = [each.opened_at.file for each in connections if each.opened_at is not None]
    assert sorted(opened) == sorted([__file__, str(package)])


class Owner:
    """What a protocol refers to weakly."""


class Lazy:
    """As Django's lazy objects: asking for the class evaluates it."""

    asked: ClassVar[list[str]] = []

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        self.asked.append("class")
        return int


def test_a_snapshot_runs_no_code_of_the_program(tmp_path: Path) -> None:
    class Holds(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.dead = weakref.proxy(Owner())
            self.lazy = Lazy()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Holds, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        found = lifetime.active()
        assert found is not None
        while not any(loop["connections"] for loop in found.snapshot(fresh=True)["loops"]):
            await asyncio.sleep(0.01)
        writer.close()
        server.close()

    recorded(main, tmp_path / "run.noria")
    assert Lazy.asked == []
