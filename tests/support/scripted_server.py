"""An HTTP server that answers with the bytes that a test gives, for tests of clients."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

Answer = bytes | Iterable[bytes]


class ScriptedServer:
    """Calls `answer(method, path, headers)` for each request; one request per connection.

    The answer is bytes, or an iterable of bytes that are sent one after the other. `ended` is set
    at the end of the test, so that an endless answer can stop.
    """

    def __init__(self, answer: Callable[[str, str, dict[str, str]], Answer]) -> None:
        self.answer = answer
        self.ended = threading.Event()
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.host}"
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> ScriptedServer:
        self._accepting.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file, contextlib.suppress(OSError):
            method, path, *_ = file.readline().decode("latin-1").split() or ("", "")
            headers = {}
            while line := file.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if "chunked" in headers.get("transfer-encoding", ""):
                while int(file.readline() or b"0", 16):
                    file.readline()
                file.readline()
            else:
                file.read(int(headers.get("content-length", 0)))
            self.seen.append((method, path, headers))
            answer = self.answer(method, path, headers)
            for part in [answer] if isinstance(answer, bytes) else answer:
                sock.sendall(part)


def response(status: int | bytes = 200, body: bytes = b"", **fields: Any) -> bytes:
    """A response that ends the connection; `fields` with "_" for "-", text or bytes.

    Content-Length is right unless it is given; None leaves it out.
    """
    fields = {"content_length": len(body), "connection": "close", **fields}
    line = status if isinstance(status, bytes) else b"HTTP/1.1 %d Whatever" % status
    head = [line]
    for name, value in fields.items():
        if value is not None:
            encoded = value if isinstance(value, bytes) else str(value).encode("latin-1")
            head.append(name.replace("_", "-").encode() + b": " + encoded)
    return b"\r\n".join(head) + b"\r\n\r\n" + body
