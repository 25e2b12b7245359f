"""noria.Reactor in processes of its own: signals, and running out of descriptors."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import subprocess
import threading
import time
from typing import Any

import pytest

import noria
from noria import Reactor
from support.reactors import LIMIT, make_reactor
from support.running import finish, line, start

# Signals, each in a process of its own.

SIGNALS = """
import os, signal, sys, threading, time
from noria import Reactor

with Reactor(sys.argv[1]) as reactor:
    reported = []
    reactor.signal(signal.SIGUSR1, lambda number: (reported.append(number), reactor.stop()))
    kill = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    kill.start()
    reactor.run()
    assert reported == [signal.SIGUSR1], reported
    kill.join()
    reactor.signal(signal.SIGUSR1, None)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    print("ready", flush=True)
    try:
        reactor.run()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    reactor.call_soon(reactor.stop)
    reactor.run()   # it can be run again
    print("again", flush=True)
"""


@pytest.mark.parametrize("name", noria.MODELS)
def test_signals(name: str) -> None:
    make_reactor(name).close()
    process = start(SIGNALS, name)
    assert line(process) == "ready"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, out.split()) == (0, ["interrupted", "again"]), err
    assert err == ""


def test_signals_need_the_main_thread() -> None:
    errors: list[BaseException] = []

    def elsewhere() -> None:
        with Reactor("epoll") as reactor:
            try:
                reactor.signal(signal.SIGUSR1, print)
            except ValueError as error:
                errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1


# Running out of descriptors, each in a process of its own.

SERVER = """
import fcntl, logging, os, resource, sys, threading
from noria import Reactor
from noria.servers.echo import Echo

logging.basicConfig(format="%(message)s")
# Before the reactor is made: io_uring stores the limit with its request.
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
with Reactor(sys.argv[1]) as reactor:
    server = reactor.listen(Echo)
    def command():
        for text in sys.stdin:
            word = text.strip()
            if word == "fill":
                while os.open("/dev/null", os.O_RDONLY) < 1100: pass
            elif word == "cpu":
                usage = resource.getrusage(resource.RUSAGE_SELF)
                print(usage.ru_utime + usage.ru_stime, flush=True)
                continue
            print("done", flush=True)
        reactor.stop()
    print(server.port, flush=True)
    thread = threading.Thread(target=command)
    thread.start()
    reactor.run()
    thread.join()
"""


def ask(process: subprocess.Popen[str], command: str) -> str:
    assert process.stdin is not None
    process.stdin.write(command + "\n")
    process.stdin.flush()
    return line(process)


def echo_once(sock: socket.socket, data: bytes = b"hello") -> bool:
    """Whether the echo arrives; False if the connection is closed first."""
    try:
        sock.sendall(data)
        return sock.recv(100) == data
    except ConnectionError:
        return False


@pytest.mark.parametrize("name", [name for name in noria.MODELS if name != "blocking"])
def test_out_of_descriptors(name: str) -> None:
    """The listener neither spins nor stops; it accepts again when descriptors are free."""
    make_reactor(name).close()
    process = start(SERVER, name, "24")
    try:
        address = ("127.0.0.1", int(line(process)))
        clients = [socket.create_connection(address, LIMIT) for _ in range(40)]
        try:
            served = []
            for client in clients:
                client.settimeout(0.1 if served else LIMIT)
                try:
                    if not echo_once(client):
                        break
                except TimeoutError:
                    break
                served.append(client)
            assert 0 < len(served) < 30, process.kill() or process.communicate()
            before = float(ask(process, "cpu"))
            time.sleep(0.5)
            spent = float(ask(process, "cpu")) - before
            assert spent < 0.25, f"it spins: {spent} s of processor time in 0.5 s"
            assert echo_once(served[0]), "those that are served still are"
            waiting = clients[len(served)]
            waiting.settimeout(LIMIT)
            for client in served:
                client.close()
            assert waiting.recv(100) == b"hello", "it waited in the backlog and is served now"
        finally:
            for client in clients:
                client.close()
        with socket.create_connection(address, LIMIT) as client:
            assert echo_once(client)
    finally:
        status, _, err = finish(process)
    assert status == 0, err
    assert "Too many open files" in err
    assert len(err.splitlines()) < 30, "it says so at every attempt"


def test_select_and_a_high_descriptor() -> None:
    """Only that connection is closed, with the error in the log."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("the hard limit of descriptors is below 4096")
    process = start(SERVER, "select", "4096")
    try:
        address = ("127.0.0.1", int(line(process)))
        with socket.create_connection(address, LIMIT) as low:
            assert echo_once(low)
            ask(process, "fill")
            for _ in range(2):
                with socket.create_connection(address, LIMIT) as high:
                    assert high.recv(1) == b""
            assert echo_once(low), "the server stopped"
    finally:
        status, _, err = finish(process)
    assert status == 0, err
    assert "only numbers below 1024" in err
    assert "'poll', 'epoll' or 'io_uring'" in err


def test_poll_and_a_high_descriptor() -> None:
    process = start(SERVER, "poll", "4096")
    try:
        address = ("127.0.0.1", int(line(process)))
        ask(process, "fill")
        with socket.create_connection(address, LIMIT) as high:
            assert echo_once(high)
    finally:
        status, _, err = finish(process)
    assert (status, err) == (0, "")


def test_threads_wait_while_a_handler_is_busy() -> None:
    """A thread reports once that its socket is writable, however long another handler takes."""

    class Busy(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if data == b"much":
                self.transport.write(bytes(20_000_000))
            else:
                before = reactor.loop.model.stats()["waits"]
                time.sleep(0.3)
                waits.append(reactor.loop.model.stats()["waits"] - before)
                self.transport.write(b"done")

    waits: list[int] = []
    with Reactor("threaded") as reactor:
        server = reactor.listen(Busy)
        thread = threading.Thread(target=talk_to_busy, args=(reactor, server.port))
        thread.start()
        reactor.run()
        thread.join()
    assert len(waits) == 1
    assert waits[0] < 100


def talk_to_busy(reactor: Reactor, port: int) -> None:
    address = ("127.0.0.1", port)
    try:
        with (
            socket.create_connection(address, LIMIT) as reader,
            socket.create_connection(address, LIMIT) as busy,
        ):
            reader.sendall(b"much")
            left = 20_000_000 - len(reader.recv(1000))
            busy.sendall(b"x")
            time.sleep(0.05)
            while left:
                left -= len(reader.recv(1 << 20))
            assert busy.recv(10) == b"done"
    finally:
        reactor.stop()
