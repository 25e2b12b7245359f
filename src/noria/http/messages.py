"""Requests, responses, header fields and errors, independent of sockets and parsers.

A handler takes a `Request` and returns a `Response`, so it can be called and tested without a
socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

# The value of Allow for a read-only resource.
READ_METHODS = "GET, HEAD, OPTIONS"


class Headers:
    """Header fields in order. Names are case-insensitive (RFC 9110, section 5.1)."""

    __slots__ = ("fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.fields: list[tuple[str, str]] = [(name.lower(), value) for name, value in fields]

    def get(self, name: str, default: str = "") -> str:
        """The value of the field. If it occurs several times, the values are joined by commas."""
        name = name.lower()
        values = [value for key, value in self.fields if key == name]
        return ", ".join(values) if values else default

    def all(self, name: str) -> list[str]:
        """The values of all occurrences of the field."""
        name = name.lower()
        return [value for key, value in self.fields if key == name]

    def __contains__(self, name: str) -> bool:
        name = name.lower()
        return any(key == name for key, _ in self.fields)


async def empty_body() -> AsyncIterator[bytes]:
    """The body of a request without a body."""
    return
    yield b""


@dataclass(slots=True)
class Request:
    """A request. `path` is decoded and begins with "/"; `body` yields the bytes as they arrive."""

    method: str
    path: str
    headers: Headers = field(default_factory=Headers)
    query: dict[str, str] = field(default_factory=dict)
    body: AsyncIterable[bytes] = field(default_factory=empty_body)
    # Content-Length; None if the body is chunked or there is none.
    length: int | None = None
    # The client's address, without the port.
    peer: str = ""
    # Whether the request arrived over TLS.
    secure: bool = False
    # The name of the user, once the application has verified it.
    user: str = ""


@dataclass(slots=True)
class FileBody:
    """`size` bytes of the open file `fd` from `offset` on. The sender closes `fd`."""

    fd: int
    offset: int
    size: int


@dataclass(slots=True)
class Response:
    """A response. An iterator is sent chunked unless `headers` has a Content-Length."""

    status: int = HTTPStatus.OK
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | FileBody | AsyncIterator[bytes] = b""


class HTTPException(Exception):
    """Raised by a handler: the response is this status, with `detail`, a sentence, as its text."""

    def __init__(self, status: int, detail: str, *, headers: Iterable[tuple[str, str]] = ()):
        super().__init__(detail)
        self.status = int(status)
        self.detail = detail
        self.headers = list(headers)
