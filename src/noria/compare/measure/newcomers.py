"""Clients that come at once: each sends, holds its connection for a while once answered, leaves."""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import selectors
import socket
import time


class Newcomer:
    """One client."""

    def __init__(self, number: int, message: bytes):
        self.number = number
        self.message = message
        self.got = 0
        self.answered: float | None = None
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)

    def connect(self, host: str, port: int) -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = self.sock.connect_ex((host, port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))


def come(
    host: str, port: int, *, clients: int, hold_ms: float, size: int, timeout: float
) -> list[float | None]:
    """When each client had its whole first answer, in ms since the first began to connect.

    None for one that had no answer within `timeout` seconds or whose connection was ended.
    """
    crowd: list[Newcomer] = []
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.EpollSelector())
        for number in range(clients):
            crowd.append(Newcomer(number, bytes(size)))
            stack.enter_context(crowd[-1].sock)
        start = time.monotonic()
        for client in crowd:
            client.connect(host, port)
            selector.register(client.sock, selectors.EVENT_WRITE, client)
        _run(selector, start, hold_ms / 1000, timeout)
    return [None if c.answered is None else (c.answered - start) * 1000 for c in crowd]


def _run(selector: selectors.EpollSelector, start: float, hold: float, timeout: float) -> None:
    leaving: list[tuple[float, int, Newcomer]] = []
    while True:
        now = time.monotonic()
        while leaving and leaving[0][0] <= now:
            _end(selector, heapq.heappop(leaving)[2])
        if not selector.get_map() or now >= start + timeout:
            return
        until = min(start + timeout, leaving[0][0] if leaving else start + timeout)
        for key, events in selector.select(max(0.0, until - now)):
            client: Newcomer = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    client.sock.send(client.message)
                    selector.modify(client.sock, selectors.EVENT_READ, client)
                    continue
                data = client.sock.recv(65536)
            except OSError:
                data = b""
            client.got += len(data)
            if client.got >= len(client.message) and client.answered is None:
                client.answered = time.monotonic()
                heapq.heappush(leaving, (client.answered + hold, client.number, client))
            elif not data:
                _end(selector, client)


def _end(selector: selectors.EpollSelector, client: Newcomer) -> None:
    if client.sock.fileno() >= 0:
        selector.unregister(client.sock)
        client.sock.close()
