"""The brokers on which the tests of the bus run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from support import brokers

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, brokers.BrokerServer]]:
    """The servers that tests of this session have started, by kind."""
    started: dict[str, brokers.BrokerServer] = {}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture
def own_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[brokers.BrokerServer]:
    """A server for this test alone, which it may stop and start; by indirect parameter."""
    brokers.require(request.param)
    server = brokers.BrokerServer(request.param, tmp_path_factory.mktemp(request.param))
    server.start()
    yield server
    server.stop()


# Session-scoped, and so set up before the check that a test leaves no child process behind.
@pytest.fixture(scope="session", params=["memory", "nats", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the broker."""
    return str(request.param)


@pytest.fixture(scope="session")
def server_url(
    kind: str,
    servers: dict[str, brokers.BrokerServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The URL of a broker that the tests of this session share."""
    if kind == "memory":
        return "memory:"
    brokers.require(kind)
    if kind not in servers:
        server = brokers.BrokerServer(kind, tmp_path_factory.mktemp(kind))
        server.start()
        servers[kind] = server
    return servers[kind].url


@pytest.fixture
def url(server_url: str) -> str:
    """The URL of a broker; in a shared server, no other test uses the type of `type`."""
    return f"memory:test-{next(_numbers)}" if server_url == "memory:" else server_url


@pytest.fixture
def type() -> str:
    """A type of events that no other test uses."""
    return f"test-{next(_numbers)}.done"
