"""The brokers on which the tests of the bus run."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterator

import pytest

from support import brokers
from support.brokers import BrokerServer

_numbers = itertools.count(1)


# Session-scoped, and so set up before the check that a test leaves no child process behind.
@pytest.fixture(scope="session")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], BrokerServer]]:
    """Return the server of a kind that the tests of this session share."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def shared(kind: str) -> BrokerServer:
            return stack.enter_context(brokers.running(kind, tmp_path_factory.mktemp(kind)))

        yield shared


@pytest.fixture
def own_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerServer]:
    """A server for this test alone, which it may stop and start; by indirect parameter."""
    with brokers.running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(scope="session", params=["memory", *brokers.PROGRAMS])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the broker."""
    return str(request.param)


@pytest.fixture(scope="session")
def server_url(kind: str, shared_server: Callable[[str], BrokerServer]) -> str:
    """The URL of a broker that the tests of this session share."""
    return "memory:" if kind == "memory" else shared_server(kind).url


@pytest.fixture
def url(server_url: str) -> str:
    """The URL of a broker; in a shared server, no other test uses the type of `type`."""
    return f"memory:test-{next(_numbers)}" if server_url == "memory:" else server_url


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Do not log what the bus reports of failures that the test makes."""
    caplog.set_level(logging.CRITICAL, "noria.bus")


@pytest.fixture
def type() -> str:
    """A type of events that no other test uses."""
    return f"test-{next(_numbers)}.done"
