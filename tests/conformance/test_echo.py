"""An echo server returns all bytes, in order, to the connection that sent them."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from typing import Any

import pytest

from support.serving import (
    LIMIT,
    Echo,
    Recorder,
    Serving,
    connect,
    read_all,
    read_exactly,
    reset,
    until,
)


def payload(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [1, 128, 1024, 65536, 100_000])
def test_message_and_answer(server: Serving, size: int) -> None:
    with connect(server.start(Echo)) as client:
        for turn in range(5):
            data = payload(size, turn)
            client.sendall(data)
            assert read_exactly(client, size) == data


class BoundedEcho(Recorder, Echo):
    """An echo that records its flow control and the largest size of its write buffer."""

    most = 0

    def data_received(self, data: bytes) -> None:
        Recorder.data_received(self, data)
        Echo.data_received(self, data)
        self.most = max(self.most, self.transport.get_write_buffer_size())
        if len(self.got) > 1 << 20:
            self.got.clear()

    def pause_writing(self) -> None:
        Recorder.pause_writing(self)
        Echo.pause_writing(self)

    def resume_writing(self) -> None:
        Recorder.resume_writing(self)
        Echo.resume_writing(self)


@pytest.mark.parametrize("size", [1_000_000, 10_000_000])
def test_large_message_and_a_slow_reader(server: Serving, size: int) -> None:
    """The client reads late and slowly: writing is paused and resumed, and no data is lost."""
    data = payload(size)
    with connect(server.start(BoundedEcho)) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        protocol = server.protocol()
        if size > 5_000_000 and not server.waits_in_write:
            # More than the socket buffers of both sides: pause_writing is called in any case.
            until(lambda: "pause" in protocol.calls)
        digest, received = hashlib.sha256(), 0
        while received < size:
            part = client.recv(65536)
            assert part
            digest.update(part)
            received += len(part)
            if received < 500_000:
                time.sleep(0.002)
        sender.join()
        assert digest.digest() == hashlib.sha256(data).digest()
        # An echo buffers at most the limit and the one message that exceeded it.
        assert protocol.most <= 64 * 1024 + 256 * 1024
    until(lambda: protocol.lost)
    flow = [call for call in protocol.calls if call in ("pause", "resume")]
    assert flow == ["pause", "resume"] * (len(flow) // 2)
    if server.waits_in_write:
        assert flow == []


def test_a_peer_that_never_reads_is_not_read_for_ever(server: Serving) -> None:
    """Flow control: the server receives no more than it can send."""
    with connect(server.start(BoundedEcho)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        client.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200_000_000:
                sent += client.send(bytes(65536))
        assert server.protocol().most <= 64 * 1024 + 256 * 1024
        if server.waits_in_write:
            # The server sleeps in send(2): only a reset ends that.
            reset(client)


def test_many_connections_never_cross(server: Serving) -> None:
    """200 connections, each with its own tag; one by one on a model that serves only one."""
    address = server.start(Echo)
    count = 200

    def talk(clients: list[tuple[int, socket.socket]]) -> None:
        for turn in range(3):
            for tag, client in clients:
                client.sendall(b"%d-%d;" % (tag, turn) * 50)
            for tag, client in clients:
                expected = b"%d-%d;" % (tag, turn) * 50
                assert read_exactly(client, len(expected)) == expected

    if server.one_at_a_time:
        for tag in range(count):
            with connect(address) as client:
                talk([(tag, client)])
    else:
        clients = [(tag, connect(address)) for tag in range(count)]
        try:
            talk(clients)
        finally:
            for _, client in clients:
                client.close()
    assert len(server.protocols) == count


def test_the_next_client_of_one_at_a_time_waits(server: Serving) -> None:
    """`blocking` serves the second client after the first has left; other models serve both."""
    address = server.start(Echo)
    with connect(address) as first, connect(address) as second:
        first.sendall(b"first")
        assert read_exactly(first, 5) == b"first"
        second.sendall(b"second")
        if server.one_at_a_time:
            second.settimeout(0.3)
            with pytest.raises(TimeoutError):
                second.recv(1)
            second.settimeout(LIMIT)
            first.close()
        assert read_exactly(second, 6) == b"second"


def test_descriptor_numbers_are_used_again(server: Serving) -> None:
    """2,000 quick connections, closed in three ways: none receives another's bytes."""
    address = server.start(Echo)
    for number in range(2000):
        client = connect(address)
        tag = b"%06d" % number
        client.sendall(tag)
        way = number % 3
        if way == 0:
            assert read_exactly(client, 6) == tag
            client.close()
        elif way == 1:
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == tag
            client.close()
        else:
            reset(client)
    with connect(address) as client:
        client.sendall(b"the end")
        assert read_exactly(client, 7) == b"the end"


@pytest.mark.parametrize("where", ["ipv6", "unix"])
def test_other_families(server: Serving, where: str, tmp_path: Any) -> None:
    if where == "ipv6":
        address = server.start(Echo, host="::1")
        assert len(address) == 4
        assert address[0] == "::1"
    else:
        address = server.start(Echo, unix=str(tmp_path / "socket"))
        assert address == str(tmp_path / "socket")
    with connect(address) as client:
        data = payload(300_000)
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert read_exactly(client, len(data)) == data
        sender.join()
        transport = server.protocol().transport
        sock = server.call(transport.get_extra_info, "socket")
        assert sock.fileno() >= 0
        assert sock.type == socket.SOCK_STREAM
        assert server.call(transport.get_extra_info, "sockname") == client.getpeername()
        assert server.call(transport.get_extra_info, "peername") == client.getsockname()
        assert server.call(transport.get_extra_info, "nothing", 7) == 7
        if where == "ipv6":
            assert sock.family == socket.AF_INET6
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_extra_info_of_tcp(server: Serving) -> None:
    with connect(server.start(Recorder)) as client:
        transport = server.protocol().transport
        assert server.call(transport.get_extra_info, "peername") == client.getsockname()
        assert server.call(transport.get_extra_info, "sockname") == client.getpeername()
        sock = server.call(transport.get_extra_info, "socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert server.call(transport.get_extra_info, "cipher") is None
        # The socket object does not own the descriptor: the connection survives its deletion.
        del sock
        client.sendall(b"on")
        until(lambda: server.protocol().got == b"on")
