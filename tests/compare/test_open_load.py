"""The load generator on connections that stay open, with a fixed request, and the TLS load."""

import socket
import ssl
import threading
from contextlib import contextmanager

import pytest

from noria.compare.loadgen.http import first_response
from noria.compare.loadgen.load import OpenLoad, WrongEcho
from noria.compare.loops.peers.server import CERTIFICATE
from noria.compare.loops.peers.tls_load import TlsLoad

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Length: 5\r\n\r\n"


@contextmanager
def serving(answer, *, tls=None):
    """Run a server with a thread for each connection; `answer` maps received bytes to a reply."""
    accepted = []

    def talk(client):
        with client:
            try:
                while data := client.recv(65536):
                    reply = answer(data)
                    if reply is None:
                        return
                    client.sendall(reply)
            except OSError:
                pass

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                client = tls.wrap_socket(client, server_side=True) if tls else client
            except OSError:
                continue
            thread = threading.Thread(target=talk, args=(client,))
            thread.start()
            accepted.append(thread)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()[1], accepted
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in accepted:
                thread.join()


def test_connections_stay_open_between_runs_and_each_run_counts_anew():
    with serving(lambda data: data) as (port, accepted):
        with OpenLoad("127.0.0.1", port, connections=3, size=100) as load:
            results = [load.run(0.05, 0.01) for _ in range(3)]
        assert len(accepted) == 3
    for result in results:
        assert result.messages > 0
        assert result.served == result.connected == 3
        assert sum(count for _, _, count in result.histogram) == result.messages


def test_a_fixed_request_is_sent_and_responses_are_counted_by_their_length():
    number = iter(range(10**9))
    seen = set()

    def answer(data):
        seen.add(data)
        # All but the status line may change, such as the date.
        return HEAD % (b"%09d" % next(number)) + b"hello"

    with serving(answer) as (port, _):
        response, expected = first_response("127.0.0.1", port, REQUEST)
        assert (response[-5:], expected) == (b"hello", b"HTTP/1.1 200 OK\r\n")
        with OpenLoad(
            "127.0.0.1",
            port,
            connections=2,
            request=REQUEST,
            expected=expected,
            reply_size=len(response),
        ) as load:
            first, second = load.run(0.05, 0.0), load.run(0.05, 0.0)
    assert seen == {REQUEST}
    assert first.messages > 0
    assert second.messages > 0
    assert first.size == len(REQUEST)


@pytest.mark.parametrize("depth", [1, 10, 60])
def test_responses_that_arrive_together_are_each_counted_once(depth):
    whole = HEAD % b"now" + b"hello"
    received, answered = bytearray(), []

    def answer(data):
        received.extend(data)
        complete = len(received) // len(REQUEST)
        del received[: complete * len(REQUEST)]
        answered.append(complete)
        return whole * complete

    with (
        serving(answer) as (port, _),
        OpenLoad(
            "127.0.0.1",
            port,
            connections=1,
            depth=depth,
            request=REQUEST,
            expected=b"HTTP/1.1 200",
            reply_size=len(whole),
        ) as load,
    ):
        result = load.run(0.05, 0.0)
    assert 0 < result.messages <= sum(answered)


def test_a_response_with_another_status_is_an_error():
    good, bad = HEAD % b"now" + b"hello", b"HTTP/1.1 500 No" + (HEAD % b"now")[15:] + b"hello"
    replies = iter([good, good, bad])
    with (
        serving(lambda data: next(replies, bad)) as (port, _),
        OpenLoad(
            "127.0.0.1",
            port,
            connections=1,
            request=REQUEST,
            expected=b"HTTP/1.1 200 OK\r\n",
            reply_size=len(good),
        ) as load,
        pytest.raises(WrongEcho, match=r"the response of message 2 is wrong from byte 9"),
    ):
        load.run(0.2, 0.0)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "not 200"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nlonger", "longer than its"),
    ],
)
def test_a_server_that_does_not_speak_http_is_refused(response, message):
    with serving(lambda data: response) as (port, _), pytest.raises(ValueError, match=message):
        first_response("127.0.0.1", port, REQUEST)


def test_a_server_that_closes_before_its_response_is_an_error():
    with serving(lambda data: None) as (port, _), pytest.raises(ConnectionAbortedError):
        first_response("127.0.0.1", port, REQUEST)


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"connections": 1, "size": 0},
        {"connections": 1, "request": b""},
        {"connections": 1, "request": b"GET", "reply_size": 0},
        {"connections": 1, "idle": -1},
    ],
)
def test_wrong_arguments_are_refused_before_connecting(wrong):
    with pytest.raises(ValueError, match="must be at least"):
        OpenLoad("127.0.0.1", 1, **wrong)


@pytest.fixture
def tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_the_tls_load_counts_echoes_in_several_runs(tls):
    moments = []
    with serving(lambda data: data, tls=tls) as (port, _):
        load = TlsLoad("127.0.0.1", port, connections=2, size=3000)
        try:
            for _ in range(2):
                result = load.run(
                    0.05,
                    0.0,
                    at_start=lambda: moments.append("start"),
                    at_end=lambda: moments.append("end"),
                )
                assert result.messages > 0
                assert result.seconds >= 0.05
        finally:
            load.close()
            load.close()
    assert moments == ["start", "end"] * 2


def test_the_tls_load_reports_a_wrong_echo_and_a_server_that_is_not_one(tls):
    with serving(lambda data: data[::-1], tls=tls) as (port, _):
        load = TlsLoad("127.0.0.1", port, connections=1, size=10)
        try:
            with pytest.raises(ConnectionError, match="differs"):
                load.run(0.2, 0.0, at_start=int, at_end=int)
        finally:
            load.close()
    with serving(lambda data: None) as (port, _), pytest.raises(OSError, match=r"clos|reset"):
        TlsLoad("127.0.0.1", port, connections=1, size=10)
