"""Methods of transports and the order of protocol calls are asyncio's on each model."""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import time
from typing import Any

import pytest

from support.serving import (
    ORACLE,
    Recorder,
    Serving,
    connect,
    read_all,
    read_exactly,
    reset,
    until,
)

# The order of calls.


def test_order_of_calls(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        client.sendall(b"one")
        until(lambda: server.protocol().got == b"one")
        client.sendall(b"two")
    protocol = server.protocol()
    until(lambda: protocol.lost)
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.got == b"onetwo"
    assert protocol.error is None


def test_a_client_that_leaves_at_once(server: Serving) -> None:
    address = server.start(Recorder)
    connect(address).close()
    protocol = server.protocol()
    until(lambda: protocol.lost)
    assert protocol.calls == ["made", "eof", "lost"]
    assert protocol.error is None


def test_data_sent_before_leaving_is_received(server: Serving) -> None:
    address = server.start(Recorder)
    data = bytes(range(256)) * 2000
    with connect(address) as client:
        client.sendall(data)
    protocol = server.protocol()
    until(lambda: protocol.lost)
    assert protocol.got == data


# Reading paused.


class PausedFromTheStart(Recorder):
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.pause_reading()


def test_paused_in_connection_made(server: Serving) -> None:
    with connect(server.start(PausedFromTheStart)) as client:
        client.sendall(b"held")
        protocol = server.protocol()
        assert not server.call(protocol.transport.is_reading)
        time.sleep(0.05)
        assert protocol.calls == ["made"]
        server.call(protocol.transport.resume_reading)
        until(lambda: protocol.got == b"held")
        assert server.call(protocol.transport.is_reading)


class PausesAtEach(Recorder):
    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading(), "called while paused"
        super().data_received(data)
        self.transport.pause_reading()


def test_what_arrives_while_paused_is_held_in_order(server: Serving) -> None:
    data = bytes(range(256)) * 500
    with connect(server.start(PausesAtEach)) as client:
        protocol = server.protocol()
        sent = 0
        while sent < len(data):
            before = len(protocol.got)
            client.sendall(data[sent : sent + 16_000])
            sent += 16_000
            until(lambda before=before: len(protocol.got) > before)
            server.call(protocol.transport.resume_reading)
        client.shutdown(socket.SHUT_WR)

        def resumed() -> bool:
            if not protocol.lost:
                server.call(protocol.transport.resume_reading)
            return protocol.lost

        until(resumed)
    assert protocol.got == data
    assert protocol.calls == ["made", "data", "eof", "lost"]


def test_the_end_comes_after_what_was_held(server: Serving) -> None:
    with connect(server.start(PausedFromTheStart)) as client:
        protocol = server.protocol()
        client.sendall(b"before the end")
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        assert protocol.calls == ["made"]
        server.call(protocol.transport.resume_reading)
        until(lambda: protocol.lost)
    assert protocol.got == b"before the end"
    assert protocol.calls == ["made", "data", "eof", "lost"]


def test_pausing_and_resuming_twice_is_harmless(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        protocol = server.protocol()
        transport = protocol.transport

        def play() -> None:
            transport.resume_reading()
            transport.pause_reading()
            transport.pause_reading()
            transport.resume_reading()
            transport.resume_reading()

        for turn in range(20):
            client.sendall(b"%02d" % turn)
            server.call(play)
        until(lambda: len(protocol.got) == 40)
        assert protocol.got == b"".join(b"%02d" % turn for turn in range(20))


# Writing.


class WritesAndCloses(Recorder):
    size = 5_000_000

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.write(bytes(range(250)) * (self.size // 250))
        transport.close()
        assert transport.is_closing()


def test_close_delivers_what_was_written(server: Serving) -> None:
    with connect(server.start(WritesAndCloses)) as client:
        time.sleep(0.02)
        assert read_all(client) == bytes(range(250)) * (WritesAndCloses.size // 250)
    protocol = server.protocol()
    until(lambda: protocol.lost)
    assert protocol.error is None
    assert [call for call in protocol.calls if call in ("made", "lost")] == ["made", "lost"]


class ChangesItsBuffer(Recorder):
    def data_received(self, data: bytes) -> None:
        buffer = bytearray(b"x" * 3_000_000)
        view = memoryview(bytearray(b"y" * 3_000_000))
        self.transport.write(buffer)
        self.transport.write(view)
        buffer[:] = bytes(len(buffer))
        view[:] = bytes(len(view))
        parts = [bytearray(b"1" * 1000), memoryview(b"2" * 1000), b"3" * 1000]
        self.transport.writelines(parts)
        parts[0][:] = bytes(1000)
        self.transport.close()


def test_a_buffer_may_be_changed_after_write(server: Serving) -> None:
    if server.name == ORACLE:
        pytest.skip("asyncio keeps the caller's buffers in writelines: noria promises more")
    with connect(server.start(ChangesItsBuffer)) as client:
        client.sendall(b"go")
        got = read_all(client)
    expected = b"x" * 3_000_000 + b"y" * 3_000_000 + b"1" * 1000 + b"2" * 1000 + b"3" * 1000
    assert got == expected


def test_all_kinds_of_buffers(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        transport = server.protocol().transport

        def write() -> None:
            transport.write(b"a")
            transport.write(bytearray(b"b"))
            transport.write(memoryview(b"xcx")[1:2])
            transport.write(b"")
            transport.write(bytearray())
            transport.write(memoryview(b""))
            transport.writelines([])
            transport.writelines([b"", b""])
            transport.writelines([b"d", bytearray(b"e"), memoryview(b"f"), b""])
            transport.writelines(part for part in (b"g", b"h"))

        server.call(write)
        assert read_exactly(client, 8) == b"abcdefgh"


def test_views_that_are_not_plain(server: Serving) -> None:
    if server.name == ORACLE:
        pytest.skip("asyncio's transport fails on these: noria promises more")
    with connect(server.start(Recorder)) as client:
        transport = server.protocol().transport
        numbers = array.array("I", range(1000))
        server.call(transport.write, memoryview(b"a-b-c-")[::2])
        server.call(transport.write, memoryview(numbers))
        server.call(transport.writelines, [memoryview(b"d-e-")[::2], memoryview(numbers)])
        expected = b"abc" + numbers.tobytes() + b"de" + numbers.tobytes()
        assert read_exactly(client, len(expected)) == expected


@pytest.mark.parametrize("wrong", ["text", None, 5, [b"list"], 1.5], ids=repr)
def test_what_is_no_buffer_is_refused(server: Serving, wrong: Any) -> None:
    with connect(server.start(Recorder)) as client:
        transport = server.protocol().transport
        with pytest.raises(TypeError):
            server.call(transport.write, wrong)
        # From Python 3.14 on, asyncio's writelines skips empty buffers.
        skips = server.name == ORACLE and not wrong
        with contextlib.suppress(TypeError) if skips else pytest.raises(TypeError):
            server.call(transport.writelines, [wrong])
        server.call(transport.write, b"goes on")
        assert read_exactly(client, 7) == b"goes on"


def test_writelines_of_many_parts(server: Serving) -> None:
    """More buffers than one system call takes, and more bytes than the socket buffer."""
    with connect(server.start(Recorder)) as client:
        parts = [b"%06d" % number * 100 for number in range(5000)]
        transport = server.protocol().transport
        # Not `call`: on blocking it returns when all data is sent.
        server.call_soon_threadsafe(lambda: transport.writelines(parts))
        assert read_exactly(client, 3_000_000) == b"".join(parts)


def test_writes_of_all_sizes_stay_in_order(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        transport = server.protocol().transport
        parts = [bytes([number % 251]) * (number * 37 % 20_000) for number in range(600)]

        def write() -> None:
            for number, part in enumerate(parts):
                if number % 7 == 0:
                    transport.writelines([part[:5], part[5:]])
                else:
                    transport.write(part)

        server.call_soon_threadsafe(write)
        expected = b"".join(parts)
        assert read_exactly(client, len(expected)) == expected


def test_write_after_close_is_ignored(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        protocol = server.protocol()

        def play() -> None:
            protocol.transport.close()
            protocol.transport.close()
            protocol.transport.write(b"never")
            if server.name != ORACLE:  # Python 3.13.0's raises TypeError here
                protocol.transport.writelines([b"never"])

        server.call(play)
        assert read_all(client) == b""
        until(lambda: protocol.lost)
        server.call(protocol.transport.write, b"never")
        server.call(protocol.transport.abort)
        server.call(protocol.transport.close)
    assert protocol.calls == ["made", "lost"]


def test_limits_of_the_write_buffer(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        protocol = server.protocol()
        transport = protocol.transport
        assert server.call(transport.get_write_buffer_limits) == (16384, 65536)
        server.call(transport.set_write_buffer_limits, 1000)
        assert server.call(transport.get_write_buffer_limits) == (250, 1000)
        server.call(lambda: transport.set_write_buffer_limits(low=10))
        assert server.call(transport.get_write_buffer_limits) == (10, 40)
        with pytest.raises(ValueError, match="must be >="):
            server.call(transport.set_write_buffer_limits, 10, 20)
        assert server.call(transport.get_write_buffer_size) == 0
        server.call(transport.set_write_buffer_limits, 0)
        if server.waits_in_write:
            return
        server.call(transport.write, bytes(20_000_000))
        kept = server.call(transport.get_write_buffer_size)
        assert 0 < kept <= 20_000_000
        assert protocol.calls == ["made", "pause"]
        assert len(read_exactly(client, 20_000_000)) == 20_000_000
        until(lambda: protocol.calls == ["made", "pause", "resume"])
        assert server.call(transport.get_write_buffer_size) == 0


# Half-closed.


class KeepsWriting(Recorder):
    def eof_received(self) -> bool:
        super().eof_received()
        return True


def test_the_peer_ends_its_side_and_still_reads(server: Serving) -> None:
    with connect(server.start(KeepsWriting)) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        protocol = server.protocol()
        until(lambda: "eof" in protocol.calls)
        time.sleep(0.02)
        assert not server.call(protocol.transport.is_closing)
        for part in (b"a", b"n", b"s"):
            server.call(protocol.transport.write, part)
        server.call(protocol.transport.close)
        assert read_all(client) == b"ans"
        until(lambda: protocol.lost)
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.error is None


class AnswersAndEnds(Recorder):
    size = 3_000_000

    def data_received(self, data: bytes) -> None:
        if "data" not in self.calls:
            self.transport.write(b"z" * self.size)
            self.transport.write_eof()
        super().data_received(data)


def test_the_server_ends_its_side_and_still_reads(server: Serving) -> None:
    with connect(server.start(AnswersAndEnds)) as client:
        client.sendall(b"go")
        assert len(read_all(client)) == AnswersAndEnds.size
        protocol = server.protocol()
        assert server.call(protocol.transport.can_write_eof)
        with pytest.raises(RuntimeError, match="write_eof"):
            server.call(protocol.transport.write, b"more")
        server.call(protocol.transport.write_eof)
        client.sendall(b" and more")
        until(lambda: protocol.got == b"go and more")
        assert not protocol.lost
    until(lambda: protocol.lost)
    assert [call for call in protocol.calls if call not in ("pause", "resume")] == [
        "made",
        "data",
        "eof",
        "lost",
    ]


# Closing.


def test_abort(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        protocol = server.protocol()

        def play() -> None:
            protocol.transport.abort()
            assert protocol.calls == ["made"], "connection_lost comes from the queue"
            assert protocol.transport.is_closing()
            protocol.transport.abort()

        server.call(play)
        assert read_all(client) == b""
        until(lambda: protocol.lost)
    assert protocol.calls == ["made", "lost"]
    assert protocol.error is None


def test_abort_drops_what_was_not_sent(server: Serving) -> None:
    if server.waits_in_write:
        pytest.skip("blocking has sent all when write comes back")
    with connect(server.start(Recorder)) as client:
        protocol = server.protocol()

        def play() -> None:
            protocol.transport.write(bytes(50_000_000))
            protocol.transport.abort()

        server.call(play)
        until(lambda: protocol.lost)
        assert server.call(protocol.transport.get_write_buffer_size) == 0
        assert len(read_all(client)) < 50_000_000
    assert protocol.calls == ["made", "pause", "lost"]


def test_reset_by_the_peer(server: Serving) -> None:
    address = server.start(Recorder)
    client = connect(address)
    client.sendall(b"hello")
    protocol = server.protocol()
    until(lambda: protocol.got == b"hello")
    reset(client)
    until(lambda: protocol.lost)
    assert protocol.calls == ["made", "data", "lost"]
    assert isinstance(protocol.error, ConnectionResetError)


def test_writing_to_a_peer_that_has_closed(server: Serving) -> None:
    """connection_lost gets the error, once; further writes are ignored."""
    address = server.start(PausedFromTheStart)
    client = connect(address)
    protocol = server.protocol()
    client.close()

    def write() -> bool:
        server.call(protocol.transport.write, b"x" * 1000)
        return protocol.lost

    until(write)
    assert isinstance(protocol.error, (BrokenPipeError, ConnectionResetError))
    assert protocol.calls == ["made", "lost"]


# Other kinds of protocols.


class Buffered(asyncio.BufferedProtocol):
    """A BufferedProtocol with a small buffer."""

    def __init__(self) -> None:
        self.buffer = bytearray(1000)
        self.got = bytearray()
        self.calls: list[str] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.calls.append("made")
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= 1000
        self.got += self.buffer[:nbytes]
        self.buffer[:] = bytes(1000)
        if len(self.got) % 3 == 0:
            self.transport.pause_reading()
            self.transport.resume_reading()

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, error: BaseException | None) -> None:
        self.calls.append("lost")


def test_buffered_protocol(server: Serving) -> None:
    data = bytes(range(256)) * 2000
    with connect(server.start(Buffered)) as client:
        client.sendall(data)
    protocol = server.protocol()
    until(lambda: "lost" in protocol.calls)
    assert protocol.got == data
    assert protocol.calls == ["made", "eof", "lost"]


class Switches(Recorder):
    """Sets another protocol when it receives a keyword."""

    following: type[Any]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.got == b"switch":
            self.next = self.following()
            self.transport.set_protocol(self.next)
            assert self.transport.get_protocol() is self.next
            self.next.connection_made(self.transport)
            self.transport.write(b"switched")


@pytest.mark.parametrize("following", [Recorder, Buffered])
def test_set_protocol_in_flight(server: Serving, following: type[Any]) -> None:
    class Switching(Switches):
        pass

    Switching.following = following
    with connect(server.start(Switching)) as client:
        client.sendall(b"switch")
        assert read_exactly(client, 8) == b"switched"
        client.sendall(b"for the next" * 5000)
    protocol = server.protocol()
    until(lambda: "lost" in protocol.next.calls)
    assert protocol.got == b"switch"
    assert protocol.next.got == b"for the next" * 5000
    assert protocol.calls == ["made", "data"]
