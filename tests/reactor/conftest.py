"""Fixtures of the reactor's tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

import noria
from noria import Reactor
from support.reactors import WATCHING, make_reactor


@pytest.fixture(params=noria.MODELS)
def reactor(request: pytest.FixtureRequest) -> Iterator[Reactor]:
    """A reactor of every model."""
    with make_reactor(request.param) as reactor:
        yield reactor


@pytest.fixture(params=WATCHING)
def watching(request: pytest.FixtureRequest) -> Iterator[Reactor]:
    """A reactor of every model that can watch readiness."""
    with make_reactor(request.param) as reactor:
        yield reactor


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of connected non-blocking sockets."""
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    with here, there:
        yield here, there


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A non-blocking listening socket on TCP."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock
