"""What a request asks and what a response says, with nothing in it of sockets or parsers.

The commands take and give these, so that they can be called in the process and tested without a
socket.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

READ_METHODS = "GET, HEAD, OPTIONS"  # for Allow: the methods of what can only be read


class Headers:
    """Header fields in order, found by name whatever its case (RFC 9110, section 5.1)."""

    __slots__ = ("fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.fields: list[tuple[str, str]] = [(name.lower(), value) for name, value in fields]

    def get(self, name: str, default: str = "") -> str:
        """The value of the field; of one that comes several times, all with commas between."""
        name = name.lower()
        values = [value for key, value in self.fields if key == name]
        return ", ".join(values) if values else default

    def all(self, name: str) -> list[str]:
        name = name.lower()
        return [value for key, value in self.fields if key == name]

    def __contains__(self, name: str) -> bool:
        name = name.lower()
        return any(key == name for key, _ in self.fields)


async def empty_body() -> AsyncIterator[bytes]:
    """The body of a request that has none."""
    return
    yield b""


@dataclass(slots=True)
class Request:
    """`path` is decoded and begins with "/"; `body` gives the bytes as they arrive."""

    method: str
    path: str
    headers: Headers = field(default_factory=Headers)
    query: dict[str, str] = field(default_factory=dict)
    body: AsyncIterable[bytes] = field(default_factory=empty_body)
    length: int | None = None  # Content-Length; None if chunked or without a body
    peer: str = ""  # the client's address, without its port
    secure: bool = False  # over TLS


@dataclass(slots=True)
class FileBody:
    """`size` bytes of the open file `fd` from `offset` on. Who sends it closes `fd`."""

    fd: int
    offset: int
    size: int


@dataclass(slots=True)
class Response:
    """An iterator as the body is sent chunked unless the headers give its Content-Length."""

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
