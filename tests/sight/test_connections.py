"""Connections of real programs: what is recorded of them, and which code uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import noria
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
