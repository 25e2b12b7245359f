"""Clients that connect at once; each sends a message, and closes a while after its answer."""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import selectors
import socket
import time


class WaitingClient:
    """One client and its socket."""

    def __init__(self, number: int, message: bytes):
        self.number = number
        self.message = message
        self.received = 0
        self.answered: float | None = None
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)

    def connect(self, host: str, port: int) -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = self.sock.connect_ex((host, port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))


def first_answers(
    host: str, port: int, *, clients: int, hold_ms: float, size: int, timeout: float
) -> list[float | None]:
    """Return the time of each client's complete first answer, in ms since the first connect.

    None for a client without an answer in `timeout` seconds, or whose connection was closed.
    """
    waiting: list[WaitingClient] = []
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.EpollSelector())
        for number in range(clients):
            waiting.append(WaitingClient(number, bytes(size)))
            stack.enter_context(waiting[-1].sock)
        start = time.monotonic()
        for client in waiting:
            client.connect(host, port)
            selector.register(client.sock, selectors.EVENT_WRITE, client)
        _run(selector, start, hold_ms / 1000, timeout)
    return [None if c.answered is None else (c.answered - start) * 1000 for c in waiting]


def _run(selector: selectors.EpollSelector, start: float, hold: float, timeout: float) -> None:
    closing: list[tuple[float, int, WaitingClient]] = []
    while True:
        now = time.monotonic()
        while closing and closing[0][0] <= now:
            _close(selector, heapq.heappop(closing)[2])
        if not selector.get_map() or now >= start + timeout:
            return
        until = min(start + timeout, closing[0][0] if closing else start + timeout)
        for key, events in selector.select(max(0.0, until - now)):
            client: WaitingClient = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    client.sock.send(client.message)
                    selector.modify(client.sock, selectors.EVENT_READ, client)
                    continue
                data = client.sock.recv(65536)
            except OSError:
                data = b""
            client.received += len(data)
            if client.received >= len(client.message) and client.answered is None:
                client.answered = time.monotonic()
                heapq.heappush(closing, (client.answered + hold, client.number, client))
            elif not data:
                _close(selector, client)


def _close(selector: selectors.EpollSelector, client: WaitingClient) -> None:
    if client.sock.fileno() >= 0:
        selector.unregister(client.sock)
        client.sock.close()
