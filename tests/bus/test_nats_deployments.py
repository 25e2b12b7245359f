"""NATS with TLS, and as a cluster of three servers."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import noria
from noria.bus.brokers import table
from noria.errors import BrokerUnavailable, InvalidBrokerURL
from support import brokers
from support.adapters import publish
from support.brokers import BrokerServer, free_port
from support.certificates import write_certificate
from support.loops import run_with_deadline, until, until_async

pytest.importorskip("nats")

DEADLINE = 120.0  # seconds
# Seconds; a new leader of a stream is elected after some of them.
EMIT_TIMEOUT = 60.0
SERVERS = 3


def test_tls(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    files = ("--tlscacert", f"{tmp_path}/ca.pem", "--tlscert", f"{tmp_path}/cert.pem")
    files += ("--tlskey", f"{tmp_path}/key.pem")
    login = f"cert={tmp_path}/cert.pem&key={tmp_path}/key.pem"

    async def main(server: BrokerServer) -> None:
        url = f"nats+tls://127.0.0.1:{server.port}"
        for options, error, message in (
            ("", BrokerUnavailable, r"certificate cannot be verified: .*\?ca=FILE"),
            # The server requires a certificate of the client.
            (f"?ca={tmp_path}/ca.pem", BrokerUnavailable, None),
            (f"?ca={tmp_path}/absent", InvalidBrokerURL, "ca=, cert= and key=: No such file"),
        ):
            broker = table.make(url + options, "worker")
            with pytest.raises(error, match=message):
                await broker.connect()
            await broker.close()
        broker = table.make(f"{url}?ca={tmp_path}/ca.pem&{login}", "worker")
        await publish(broker, "a.b", b"x")
        await broker.close()

    with brokers.running("nats", tmp_path, "--tls", "--tlsverify", *files) as server:
        run_with_deadline(main(server), DEADLINE)


@pytest.mark.parametrize("scheme", ["nats+tls", "rediss"])
def test_a_server_without_tls_gets_no_password(scheme: str) -> None:
    pytest.importorskip("redis")
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if scheme == "nats+tls":
            writer.write(b'INFO {"version": "2.9.10", "auth_required": true, "proto": 1}\r\n')
        received.extend(await reader.read(1))
        if scheme == "rediss":
            writer.write(b"-ERR unknown command\r\n")
        if received:
            writer.write_eof()
            received.extend(await reader.read())
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            broker = table.make(f"{scheme}://admin:secret@127.0.0.1:{port}", "worker")
            message = "the server offers no TLS; nats" if scheme == "nats+tls" else "SSL"
            with pytest.raises(BrokerUnavailable, match=message):
                await broker.connect()
            await broker.close()

    run_with_deadline(main(), DEADLINE)
    assert b"secret" not in received
    assert b"CONNECT" not in received


def test_an_unknown_nats_py_does_not_connect_by_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    from nats.aio.client import Client

    monkeypatch.delattr(Client, "_connect_command")

    async def main() -> None:
        broker = table.make("nats+tls://127.0.0.1:1", "worker")
        with pytest.raises(BrokerUnavailable, match="nats-py may connect without TLS"):
            await broker.connect()
        await broker.close()

    run_with_deadline(main(), DEADLINE)


def test_a_server_that_permits_tls_is_connected_to_by_tls(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    config = tmp_path / "config"
    config.write_text(
        f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}\n'
        "allow_non_tls: true\n"
    )

    async def main(server: BrokerServer) -> None:
        url = f"nats+tls://127.0.0.1:{server.port}?ca={tmp_path}/ca.pem"
        broker: Any = table.make(url, "worker")
        await publish(broker, "a.b", b"x")
        writer = broker.connection.link.client._transport._io_writer
        assert writer.get_extra_info("ssl_object") is not None
        await broker.close()

    with brokers.running("nats", tmp_path / "data", "-c", str(config)) as server:
        run_with_deadline(main(server), DEADLINE)


def test_a_login_at_a_server_that_requires_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    files = ("--tlscert", f"{tmp_path}/cert.pem", "--tlskey", f"{tmp_path}/key.pem")
    login = ("--user", "admin", "--pass", "secret")

    async def main(server: BrokerServer) -> None:
        with monkeypatch.context() as patch:
            patch.delenv("SSL_CERT_FILE")
            broker = table.make(f"nats://admin:secret@127.0.0.1:{server.port}", "worker")
            with pytest.raises(BrokerUnavailable, match=r"named with nats\+tls:// and \?ca=FILE"):
                await broker.connect()
            await broker.close()
        for scheme in ("nats", "nats+tls"):
            broker = table.make(f"{scheme}://admin:secret@127.0.0.1:{server.port}", "worker")
            await publish(broker, "a.b", b"x")
            await broker.close()

    with brokers.running("nats", tmp_path / "data", "--tls", *files, *login) as server:
        run_with_deadline(main(server), DEADLINE)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN NATS USER JWT-----"])
def test_unusable_credentials_are_errors_of_the_url(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "creds"
    if content is not None:
        path.write_bytes(content)

    async def main(message: str) -> None:
        broker = table.make(f"nats://127.0.0.1:1?creds={path}", "worker")
        with pytest.raises(InvalidBrokerURL, match=message):
            await broker.connect()
        await broker.close()

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run_with_deadline(main("pip install nkeys"), DEADLINE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    run_with_deadline(main("No such file" if content is None else "no credentials"), DEADLINE)


@pytest.mark.timeout(DEADLINE + 30)
def test_a_cluster_of_which_each_server_is_killed_in_turn(tmp_path: Path) -> None:
    brokers.require("nats")
    ports = [free_port() for _ in range(SERVERS)]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    servers = [
        BrokerServer(
            *("nats", tmp_path / f"{number}", "-n", f"server-{number}", "-cluster_name", "test"),
            *("-cluster", f"nats://127.0.0.1:{port}", "-routes", routes),
        )
        for number, port in enumerate(ports)
    ]
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    bus = noria.Bus(f"nats://{hosts}?replicas={SERVERS}", claim=2.0)
    handled: dict[str | None, list[int]] = {None: [], "a": [], "b": []}

    @bus.on("a.b", group="g")
    async def handle(event: noria.Event) -> None:
        handled[event.key].append(event.data["number"])

    async def connected() -> bool:
        # Until they have elected a leader, the servers do not answer.
        with contextlib.suppress(BrokerUnavailable):
            await bus.connect()
            return True
        return False

    async def main() -> None:
        await until_async(connected)
        async with bus:
            keys = list(handled)
            for number in range(90):
                server, step = divmod(number, 30)
                if step == 10:
                    await asyncio.to_thread(servers[server].kill)
                elif step == 20:
                    await asyncio.to_thread(servers[server].start)
                key = keys[number % len(keys)]
                await bus.emit("a.b", key=key, number=number, timeout=EMIT_TIMEOUT)
            await until(lambda: len({n for each in handled.values() for n in each}) == 90)

    try:
        for server in servers:
            server.start()
        run_with_deadline(main(), DEADLINE)
    finally:
        for server in servers:
            server.kill()
    for key in ("a", "b"):
        firsts = list(Counter(handled[key]))
        assert firsts == sorted(firsts)
