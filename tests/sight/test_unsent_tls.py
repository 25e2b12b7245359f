"""What TLS keeps unsent is in the figures of a connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path

import pytest

import noria
from noria.sight.client import Client
from noria.sight.findings import find
from noria.sight.live_observer import LiveObserver
from noria.sight.observation import Observation
from support.certificates import write_certificate
from support.waiting import DEADLINE

pytestmark = pytest.mark.usefixtures("runtime_directory")

PIECE = 1 << 18  # bytes


def test_a_send_buffer_that_grows_in_tls_is_found(tmp_path: Path) -> None:
    """Only the kernel's part was counted: the client was called slow."""
    write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    kept: list[int] = []
    seen: list[Observation] = []
    enough = threading.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not enough.is_set():
            writer.write(bytes(PIECE))
            kept[:] = [writer.transport.get_write_buffer_size()]
            await asyncio.sleep(0.02)
        writer.transport.abort()

    def client(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost"),
        ):
            enough.wait(DEADLINE)

    async def main(observer: LiveObserver) -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            thread = threading.Thread(target=client, args=(port,))
            thread.start()
            try:
                async with asyncio.timeout(DEADLINE):
                    while True:
                        observation = await asyncio.to_thread(observer.observe)
                        if any(f.kind == "send-buffer-growing" for f in find(observation)):
                            seen.append(observation)
                            break
                        await asyncio.sleep(0.05)
            finally:
                enough.set()
                await asyncio.to_thread(thread.join)

    with noria.watch(report_blocks=False) as watch:
        assert watch.socket is not None
        with Client.connect(watch.socket) as observing:
            observer = observing.observer()
            noria.run(main(observer))
            observer.close()
    (connection,) = (c for c in seen[0].loops[0].connections if c.tls)
    assert 4 * PIECE <= connection.written_while_paused <= connection.most_unsent
    assert connection.most_unsent <= kept[0] + PIECE
