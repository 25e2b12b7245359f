"""Bodies of responses, bounded in size (after decompression) and in time."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

import httpx

from noria.transfer import parsers
from noria.transfer.errors import BadResponse

MAX_MESSAGE_BYTES = 64 << 10
"""How much is kept of a response that only reports how a request ended."""

MAX_LISTING_BYTES = 32 << 20
"""The longest listing that is accepted. Parsed, it is several times as large."""

_SUPPORTED_CODINGS = frozenset({"gzip", "x-gzip", "deflate"})


async def iterate_body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives.

    Raises ReadTimeout if no byte of it arrives within the client's timeout. (httpx's own timeout
    counts any bytes of the connection, such as the framing of chunks.)
    """
    timeout = response.request.extensions.get("timeout", {}).get("read")
    async with _closing(response.aiter_raw()) as parts:
        while True:
            try:
                async with asyncio.timeout(timeout):
                    block = await anext(parts, None)
            except TimeoutError:
                raise httpx.ReadTimeout("no answer in time", request=response.request) from None
            if block is None:
                return
            if block:
                yield block


@contextlib.asynccontextmanager
async def _closing(parts: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Close a generator that httpx declares as an iterator; else like contextlib.aclosing."""
    try:
        yield parts
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()


async def read_listing(response: httpx.Response, limit: int) -> bytes:
    """Return the body, decompressed. Raises BadResponse if it has more than `limit` bytes."""
    body = await read_start(response, limit + 1)
    if len(body) > limit:
        raise BadResponse(
            f"the listing exceeds {limit >> 20} MiB; fetch its directories separately"
        )
    return body


async def read_start(response: httpx.Response, limit: int) -> bytes:
    """Return the first `limit` bytes of the body, decompressed; little more is read.

    Raises BadResponse if it cannot be decompressed.
    """
    coding = parsers.content_encoding(response)
    if coding and coding not in _SUPPORTED_CODINGS:
        raise BadResponse(f"the server compressed its response unasked ({coding[:40]})")
    # 32: zlib finds out whether the format is zlib or gzip.
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if coding else None
    body = bytearray()
    async with contextlib.aclosing(iterate_body(response)) as blocks:
        async for block in blocks:
            try:
                body += inflate.decompress(block, limit - len(body)) if inflate else block
            except zlib.error:
                raise BadResponse("the server's response cannot be decompressed") from None
            if len(body) >= limit:
                break
    return bytes(body[:limit])
