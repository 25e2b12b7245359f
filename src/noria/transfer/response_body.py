"""Bodies of responses, bounded: in size after decompression, and in time."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

import httpx

from noria.transfer import parsers
from noria.transfer.errors import BadResponse

MAX_MESSAGE_BYTES = 64 << 10
"""What is kept of a response that only says how a request ended."""

MAX_LISTING_BYTES = 32 << 20
"""The longest listing that is accepted. Parsed, it is several times as large."""

_INFLATED = frozenset({"gzip", "x-gzip", "deflate"})


async def blocks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises ReadTimeout if no byte of it comes within the client's timeout.

    httpx's own timeout is for bytes of the connection: the framing of chunks would count.
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
    """As contextlib.aclosing, for what httpx declares as an iterator: it is a generator."""
    try:
        yield parts
    finally:
        if isinstance(parts, AsyncGenerator):
            await parts.aclose()


async def read_listing(response: httpx.Response, limit: int) -> bytes:
    """The whole listing, decompressed. Raises BadResponse if it has more than `limit` bytes."""
    body = await read_start(response, limit + 1)
    if len(body) > limit:
        raise BadResponse(
            f"the listing exceeds {limit >> 20} MiB; fetch its directories separately"
        )
    return body


async def read_start(response: httpx.Response, limit: int) -> bytes:
    """The first `limit` bytes of the body, decompressed. Not much more is ever in memory."""
    coding = parsers.content_encoding(response)
    if coding and coding not in _INFLATED:
        raise BadResponse(f"the server compressed its answer unasked ({coding[:40]})")
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if coding else None  # 32: zlib or gzip
    body = bytearray()
    async with contextlib.aclosing(blocks(response)) as incoming:
        async for block in incoming:
            try:
                body += inflate.decompress(block, limit - len(body)) if inflate else block
            except zlib.error:
                raise BadResponse("the server's answer cannot be decompressed") from None
            if len(body) >= limit:
                break
    return bytes(body[:limit])
