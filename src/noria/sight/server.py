"""The server of the live protocol: JSON lines over a Unix socket, for this user only.

It never blocks: a client that does not read is disconnected after SEND_TIMEOUT.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noria.net.socket_files import remove_file_of_inode
from noria.sight.socket_directory import (
    SUFFIX,
    make_socket_directory,
    peer,
    remove_stale_sockets,
)

MAX_CLIENTS = 32
MAX_REQUEST = 64 * 1024  # bytes of a line
SEND_TIMEOUT = 10.0  # seconds without progress
RECEIVE_SIZE = 16 * 1024

# An answer: its JSON in UTF-8, and a descriptor to pass or -1 (closed after it is sent).
Answer = tuple[bytes, int]


class _Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.unsent: deque[tuple[memoryview, int]] = deque()
        self.stalled_since = 0.0


class LiveServer:
    """Listens at PID.sock. The agent's thread polls *selector*, and calls the handlers in it.

    *answer* gets a request and returns an Answer; it may raise ValueError or OSError, which are
    reported to the client.

    Raises OSError if the socket cannot be created.
    """

    def __init__(
        self, selector: selectors.BaseSelector, answer: Callable[[dict[str, Any]], Answer]
    ) -> None:
        self.selector = selector
        self.answer = answer
        self.clients: set[_Client] = set()
        directory = make_socket_directory()
        remove_stale_sockets(directory)
        self.path: Path = directory / f"{os.getpid()}{SUFFIX}"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.listener.setblocking(False)
            self.path.unlink(missing_ok=True)
            # The directory has mode 0700: no other user connects before the socket's mode is set.
            self.listener.bind(str(self.path))
            os.chmod(self.path, 0o600)
            self.inode = os.lstat(self.path).st_ino
            self.listener.listen(2 * MAX_CLIENTS)
        except BaseException:
            self.listener.close()
            raise
        selector.register(self.listener, selectors.EVENT_READ, self._accept)

    def descriptors(self) -> set[int]:
        """Return the descriptors of the listening socket and of the clients."""
        return {self.listener.fileno(), *(client.sock.fileno() for client in self.clients)}

    def close(self, *, remove: bool = True) -> None:
        """Disconnect all clients; with *remove*, delete the socket file if it is still ours."""
        for client in list(self.clients):
            self._disconnect(client)
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(self.listener)
        self.listener.close()
        if remove:
            with contextlib.suppress(OSError):
                remove_file_of_inode(self.path, self.inode)

    def disconnect_stalled(self) -> None:
        """Disconnect the clients that have not read for SEND_TIMEOUT seconds."""
        now = time.monotonic()
        for client in list(self.clients):
            if client.unsent and now - client.stalled_since > SEND_TIMEOUT:
                self._disconnect(client)

    def _accept(self, mask: int) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        try:
            allowed = peer(sock)[1] in (os.getuid(), 0)
        except OSError:
            allowed = False
        if not allowed or len(self.clients) >= MAX_CLIENTS:
            sock.close()
            return
        client = _Client(sock)
        self.clients.add(client)
        self.selector.register(sock, selectors.EVENT_READ, lambda mask: self._handle(client, mask))

    def _handle(self, client: _Client, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._send(client)
                self._answer_requests(client)
            if mask & selectors.EVENT_READ:
                self._receive(client)
        except OSError:
            self._disconnect(client)

    def _receive(self, client: _Client) -> None:
        try:
            data = client.sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        if not data:
            self._disconnect(client)
            return
        client.received += data
        self._answer_requests(client)
        if b"\n" not in client.received and len(client.received) > MAX_REQUEST:
            self._disconnect(client)

    def _answer_requests(self, client: _Client) -> None:
        """Answer the requests that have arrived, while the client reads the answers."""
        while not client.unsent and client in self.clients:
            line, found, rest = client.received.partition(b"\n")
            if not found:
                break
            client.received = rest
            self._answer(client, bytes(line))

    def _answer(self, client: _Client, line: bytes) -> None:
        fd = -1
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            body, fd = self.answer(request)
        except (ValueError, TypeError, RecursionError, OSError) as error:
            body = json.dumps({"error": str(error) or type(error).__name__}).encode()
        client.unsent.append((memoryview(body + b"\n"), fd))
        client.stalled_since = time.monotonic()
        self._send(client)

    def _send(self, client: _Client) -> None:
        while client.unsent:
            data, fd = client.unsent[0]
            try:
                if fd >= 0:
                    sent = socket.send_fds(client.sock, [data], [fd], socket.MSG_NOSIGNAL)
                else:
                    sent = client.sock.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            client.stalled_since = time.monotonic()
            if fd >= 0:
                os.close(fd)
            if sent < len(data):
                client.unsent[0] = data[sent:], -1
            else:
                client.unsent.popleft()
        # A client that does not read its answers has no further request read.
        mask = selectors.EVENT_WRITE if client.unsent else selectors.EVENT_READ
        key = self.selector.get_key(client.sock)
        if key.events != mask:
            self.selector.modify(client.sock, mask, key.data)

    def _disconnect(self, client: _Client) -> None:
        if client not in self.clients:
            return
        self.clients.discard(client)
        for _, fd in client.unsent:
            if fd >= 0:
                os.close(fd)
        client.unsent.clear()
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(client.sock)
        client.sock.close()
