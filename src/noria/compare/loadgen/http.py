"""Learns the response of an HTTP server, whose length the load generator then counts in."""

from __future__ import annotations

import re
import socket

TIMEOUT_SECONDS = 5.0
MAX_RESPONSE_BYTES = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)


def first_response(host: str, port: int, request: bytes) -> tuple[bytes, bytes]:
    """Send the request on a connection of its own; return the response and its status line.

    Raises OSError, and ValueError for a response that is not 200 with a Content-Length.
    """
    with socket.create_connection((host, port), TIMEOUT_SECONDS) as client:
        client.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += _more(client, received)
        head = received[: received.index(b"\r\n\r\n") + 4]
        length = _LENGTH.search(head)
        if not head.startswith(b"HTTP/1.1 200") or length is None:
            raise ValueError("the response is not 200 with a Content-Length")
        size = len(head) + int(length[1])
        while len(received) < size:
            received += _more(client, received)
    if len(received) != size:
        raise ValueError("the response is longer than its Content-Length")
    return received, head[: head.index(b"\r\n") + 2]


def _more(client: socket.socket, received: bytes) -> bytes:
    if len(received) > MAX_RESPONSE_BYTES:
        raise ValueError(f"the response is longer than {MAX_RESPONSE_BYTES} bytes")
    data = client.recv(65536)
    if not data:
        raise ConnectionAbortedError("the server closed the connection before its response")
    return data
