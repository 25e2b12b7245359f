"""Helpers for tests of the file service: send a request, read the response."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import noria
from noria.fileserver.service import FileService
from noria.http.messages import FileBody, Headers, Request, Response


@dataclass
class Answer:
    status: int
    headers: Headers
    body: bytes
    response: Response


async def chunks(data: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def ask(
    service: FileService,
    method: str,
    path: str,
    body: bytes | AsyncIterator[bytes] = b"",
    *,
    query: dict[str, str] | None = None,
    length: int | None = None,
    **fields: str,
) -> Answer:
    """Send one request; `fields` are the headers, with "_" for "-"."""
    headers = Headers((name.replace("_", "-"), value) for name, value in fields.items())
    if isinstance(body, bytes):
        length = length if length is not None else len(body)
        body = chunks(body)
    request = Request(method, path, headers, query or {}, body, length)
    response = await service.handle(request)
    assert ("X-Content-Type-Options", "nosniff") in response.headers
    return Answer(
        response.status, Headers(response.headers), await bytes_of(response.body), response
    )


async def bytes_of(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, FileBody):
        try:
            return os.pread(body.fd, body.size, body.offset)
        finally:
            os.close(body.fd)
    return b"".join([block async for block in body])


def serving(main: Callable[[FileService], Awaitable[None]], root: Path, **options: Any) -> None:
    """Run `main` with a service of `root`, on noria's loop."""
    service = FileService(root, **options)

    async def run() -> None:
        await main(service)

    try:
        noria.run(run())
    finally:
        service.close()


def hidden(root: Path) -> list[str]:
    """Return the partial files that exist."""
    return [str(path) for path in root.rglob(".noria-*")]
