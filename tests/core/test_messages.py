"""Messages are overwritten only if no reference to them is kept: a kept message never changes."""

from __future__ import annotations

import asyncio
import socket
import weakref
from typing import Any

import pytest

import noria
from noria import models

MODELS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not models.availability(name)[0], reason=models.availability(name)[1] or "-"
        ),
    )
    for name in ("select", "poll", "epoll", "epoll-edge", "io_uring")
]


class Keeper(asyncio.Protocol):
    """Keeps every other message, in one of several ways, and releases the rest."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.copies: list[bytearray] = []
        self.hashes: list[int] = []

    @property
    def received(self) -> bytes:
        return b"".join(self.copies)

    def data_received(self, data: bytes) -> None:
        self.copies.append(bytearray(data))
        self.hashes.append(hash(data))
        way = len(self.copies) % 5
        if way == 1:
            self.kept.append(data)
        elif way == 2:
            self.kept.append(memoryview(data))
        elif way == 3:
            self.kept.append({data: None})
        else:
            self.kept.append(None)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [1, 2, 100, 1000, 20_000])
def test_a_kept_message_is_not_overwritten(model: str, size: int) -> None:
    sent = b""
    with noria.Reactor(model) as reactor:
        protocol = Keeper()
        server = reactor.listen(lambda: protocol)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            for number in range(60):
                # Messages of similar sizes share an object.
                message = bytes([number]) * max(1, size - number % 3)
                sent += message
                client.sendall(message)
                while len(protocol.received) < len(sent):
                    reactor.run_once(1.0)
    assert protocol.received == sent
    assert len(protocol.kept) >= 60
    for kept, copy, known in zip(protocol.kept, protocol.copies, protocol.hashes, strict=True):
        assert hash(bytes(copy)) == known
        if isinstance(kept, dict):
            assert bytes(copy) in kept
        elif kept is not None:
            assert bytes(kept) == copy


def test_a_protocol_is_freed_with_its_connection() -> None:
    """The stream caches the protocol's method: the end of the connection must break the cycle."""
    gone = []

    class Watched(asyncio.Protocol):
        def connection_lost(self, error: Exception | None) -> None:
            gone.append(1)

    with noria.Reactor() as reactor:
        references: list[weakref.ref[Watched]] = []

        def factory() -> Watched:
            protocol = Watched()
            references.append(weakref.ref(protocol))
            return protocol

        server = reactor.listen(factory)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10):
            while not references:
                reactor.run_once(1.0)
        while not gone:
            reactor.run_once(1.0)
        reactor.run_once(0)
        assert references[0]() is None
