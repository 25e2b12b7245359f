"""The Range field and multipart/byteranges (RFC 9110, section 14)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import pairwise

from noria.http.messages import HTTPException

MAX_RANGES = 32
READ_BLOCK_SIZE = 256 * 1024  # bytes

_RANGE = re.compile(r"[ \t]*(\d{0,18})-(\d{0,18})[ \t]*")


def parse_range(value: str, size: int) -> list[tuple[int, int]] | None:
    """(offset, length) of each range, or None if the field is to be ignored.

    It is ignored if it is malformed, has another unit than bytes, more than MAX_RANGES ranges, or
    ranges that overlap: these would cost more than the whole file (RFC 9110, section 14.2). Raises
    HTTPException 416 if no range is within `size`.
    """
    unit, _, text = value.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    specs = [part for part in text.split(",") if part.strip()]
    if not 0 < len(specs) <= MAX_RANGES:
        return None
    found = []
    for spec in specs:
        match = _RANGE.fullmatch(spec)
        if match is None or not (match[1] or match[2]):
            return None
        if match[1]:
            first, last = int(match[1]), int(match[2]) if match[2] else size - 1
            if match[2] and last < first:
                return None
            last = min(last, size - 1)
        else:
            first, last = max(size - int(match[2]), 0), size - 1
        if first <= last:
            found.append((first, last - first + 1))
    if not found:
        raise HTTPException(
            416,
            f"The range is not within the file, which has {size} bytes.",
            headers=[("Content-Range", f"bytes */{size}")],
        )
    ordered = sorted(found)
    if any(a + length > b for (a, length), (b, _) in pairwise(ordered)):
        return None
    return found


def format_content_range(offset: int, length: int, size: int) -> str:
    """The value of Content-Range."""
    return f"bytes {offset}-{offset + length - 1}/{size}"


class MultipartByteRanges:
    """The body of a response with several ranges; `content_length` is in bytes."""

    def __init__(self, ranges: list[tuple[int, int]], size: int, kind: str):
        self.boundary = os.urandom(12).hex()
        self.ranges = ranges
        self.heads = [
            (
                f"\r\n--{self.boundary}\r\nContent-Type: {kind}\r\n"
                f"Content-Range: {format_content_range(offset, length, size)}\r\n\r\n"
            ).encode()
            for offset, length in ranges
        ]
        self.end = f"\r\n--{self.boundary}--\r\n".encode()
        self.content_length = (
            sum(map(len, self.heads)) + sum(length for _, length in ranges) + len(self.end)
        )

    def read_blocks(self, fd: int) -> Iterator[bytes]:
        """Read the blocks of the body from `fd`. Raises OSError if the file became shorter."""
        for head, (offset, length) in zip(self.heads, self.ranges, strict=True):
            yield head
            while length:
                block = os.pread(fd, min(length, READ_BLOCK_SIZE), offset)
                if not block:
                    raise OSError("the file became shorter while it was sent")
                yield block
                offset += len(block)
                length -= len(block)
        yield self.end
