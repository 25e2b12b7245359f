"""A TLS load in Python, without a dependency: connections with one message in flight on each.

OpenSSL is called on memory BIOs, with one recv(2) and one send(2) for each message, in a loop
without callbacks. It is still about as expensive as a server in C, so figures are per second of the
server's CPU time. The certificate is not verified: the server is the parent's, on the loopback.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

TIMEOUT_SECONDS = 5.0
READ_SIZE = 64 * 1024
BATCH = 64  # events of one epoll_wait(2)


@dataclass(frozen=True)
class TlsResult:
    """Complete echoes, and the elapsed time."""

    messages: int
    seconds: float


class Connection:
    """One TLS connection; `due` bytes of the echo are missing."""

    def __init__(self, context: ssl.SSLContext, host: str, port: int, message: bytes):
        self.message = message
        self.due = 0
        self.sock = socket.create_connection((host, port), TIMEOUT_SECONDS)
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = context.wrap_bio(self.incoming, self.outgoing)
            self._handshake()
        except BaseException:
            self.sock.close()
            raise

    def _handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
            else:
                self._flush()
                return

    def _flush(self) -> None:
        # One message in flight always fits the socket's buffer.
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def _receive(self) -> None:
        data = self.sock.recv(READ_SIZE)
        if not data:
            raise ConnectionAbortedError("the server closed a connection")
        self.incoming.write(data)

    def send(self) -> None:
        """Send a message."""
        self.due = len(self.message)
        self.tls.write(self.message)
        self.sock.send(self.outgoing.read())

    def exchange(self, again: bool) -> int:
        """Receive; if the echo is complete, return 1 and, if `again`, send the next message."""
        self._receive()
        try:
            while self.due:
                data = self.tls.read(READ_SIZE)
                at = len(self.message) - self.due
                if data != self.message[at : at + len(data)] or not data:
                    raise ConnectionError("the echo differs from its message")
                self.due -= len(data)
        except ssl.SSLWantReadError:
            return 0
        if again:
            self.send()
        return 1


class TlsLoad:
    """Open connections to a TLS echo server."""

    def __init__(self, host: str, port: int, *, connections: int, size: int):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.connections: dict[int, Connection] = {}
        self.poll = select.epoll()
        message = bytes(i * 31 & 0xFF for i in range(size))
        try:
            for _ in range(connections):
                connection = Connection(context, host, port, message)
                self.connections[connection.sock.fileno()] = connection
                self.poll.register(connection.sock, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def run(
        self,
        seconds: float,
        warmup: float,
        *,
        at_start: Callable[[], object],
        at_end: Callable[[], object],
    ) -> TlsResult:
        """Keep one message in flight per connection; count complete echoes for `seconds`."""
        for connection in self.connections.values():
            connection.send()
        self._exchange(time.perf_counter() + warmup)
        at_start()
        began = time.perf_counter()
        messages = self._exchange(began + seconds)
        passed = time.perf_counter() - began
        at_end()
        self._drain()
        return TlsResult(messages, passed)

    def _exchange(self, until: float) -> int:
        messages = 0
        connections, poll, clock = self.connections, self.poll.poll, time.perf_counter
        while clock() < until:
            events = poll(0.05, BATCH)
            for fd, _ in events:
                messages += connections[fd].exchange(True)
        return messages

    def _drain(self) -> None:
        """Receive the echoes that are in flight."""
        latest = time.perf_counter() + TIMEOUT_SECONDS
        while any(connection.due for connection in self.connections.values()):
            if time.perf_counter() > latest:
                raise TimeoutError("the server does not answer")
            for fd, _ in self.poll.poll(0.05, BATCH):
                self.connections[fd].exchange(False)

    def close(self) -> None:
        """Close all connections. A second call does nothing."""
        self.poll.close()
        for connection in self.connections.values():
            connection.sock.close()
