"""An exception of a handler closes its connection and is logged; the server continues."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from support.serving import ORACLE, Echo, Recorder, Serving, connect, read_all, read_exactly, until


class Boom(Exception):
    pass


class Fragile(Recorder, Echo):
    """Raises in the given callback, the first time only."""

    where = ""
    left = 1

    def trip(self, place: str) -> None:
        if place == self.where and type(self).left:
            type(self).left -= 1
            raise Boom(place)

    def connection_made(self, transport: Any) -> None:
        Recorder.connection_made(self, transport)
        self.trip("connection_made")

    def data_received(self, data: bytes) -> None:
        Recorder.data_received(self, data)
        Echo.data_received(self, data)
        self.trip("data_received")

    def eof_received(self) -> None:
        Recorder.eof_received(self)
        self.trip("eof_received")

    def pause_writing(self) -> None:
        Recorder.pause_writing(self)

    def resume_writing(self) -> None:
        Recorder.resume_writing(self)

    def connection_lost(self, error: BaseException | None) -> None:
        Recorder.connection_lost(self, error)
        self.trip("connection_lost")


@pytest.mark.parametrize(
    "place", ["connection_made", "data_received", "eof_received", "connection_lost"]
)
def test_a_handler_raises(server: Serving, place: str, caplog: Any) -> None:
    if server.name == ORACLE and place == "connection_made":
        pytest.skip("asyncio logs it and leaves the connection open: noria ends it")
    server.errors_expected = True

    class Raises(Fragile):
        where = place

    address = server.start(Raises)
    # A second connection; for connection_made the first one raises.
    bystander, victim_index = None, 0
    if not server.one_at_a_time and place != "connection_made":
        bystander, victim_index = connect(address), 1
        server.protocol(0)
    with connect(address) as client:
        if place != "connection_made":
            client.sendall(b"hello")
            assert read_exactly(client, 5) == b"hello"
        if place == "eof_received":
            client.shutdown(socket.SHUT_WR)
        if place != "connection_lost":
            assert read_all(client) == b""
    victim = server.protocol(victim_index)
    until(lambda: victim.lost)
    if place != "connection_lost":
        assert isinstance(victim.error, Boom)
    assert victim.calls.count("lost") == 1

    def logged() -> list[logging.LogRecord]:
        return [r for r in caplog.records if r.exc_info and r.exc_info[0] is Boom]

    until(logged)
    assert len(logged()) == 1
    if bystander is not None:
        with bystander:
            bystander.sendall(b"still here")
            assert read_exactly(bystander, 10) == b"still here"
    with connect(address) as after:
        after.sendall(b"goes on")
        assert read_exactly(after, 7) == b"goes on"


def test_the_factory_raises(server: Serving, caplog: Any) -> None:
    if server.name == ORACLE:
        pytest.skip("asyncio says nothing of it and leaves the socket to the garbage collector")
    server.errors_expected = True
    times = []

    def make() -> Echo:
        times.append(1)
        if len(times) == 1:
            raise Boom("no protocol")
        return Echo()

    address = server.start(make)
    with connect(address) as client:
        assert read_all(client) == b""
    with connect(address) as client:
        client.sendall(b"goes on")
        assert read_exactly(client, 7) == b"goes on"
    assert "Boom" in caplog.text


def test_a_call_raises(server: Serving, caplog: Any) -> None:
    """An exception of a callback without a connection is logged and affects no connection."""
    server.errors_expected = True

    def boom() -> None:
        raise Boom("in a call")

    with connect(server.start(Echo)) as client:
        server.call_soon_threadsafe(boom)
        until(lambda: "in a call" in caplog.text)
        client.sendall(b"goes on")
        assert read_exactly(client, 7) == b"goes on"


class RaisesWhileMany(Recorder, Echo):
    def data_received(self, data: bytes) -> None:
        if data == b"boom":
            raise Boom
        Echo.data_received(self, data)


def test_one_of_many_raises(server: Serving) -> None:
    """Other events of the same turn are still handled."""
    if server.one_at_a_time:
        pytest.skip("blocking serves one connection at a time")
    server.errors_expected = True
    address = server.start(RaisesWhileMany)
    clients = [connect(address) for _ in range(60)]
    try:
        server.protocol(59)
        for number, client in enumerate(clients):
            client.sendall(b"boom" if number % 3 == 0 else b"%04d" % number)
        for number, client in enumerate(clients):
            if number % 3 == 0:
                assert read_all(client) == b""
            else:
                assert read_exactly(client, 4) == b"%04d" % number
    finally:
        for client in clients:
            client.close()
