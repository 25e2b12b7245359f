"""A streaming parser of multipart/form-data (RFC 7578)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator

from noria.http.messages import Headers, HTTPException

MAX_PART_HEAD_BYTES = 8 * 1024
MAX_PARTS = 10_000

_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;\s"]+))', re.IGNORECASE)
_PARAMETER = re.compile(r'\s*;\s*([a-z-]+\*?)=(?:"((?:[^"\\]|\\.)*)"|([^;\s"]*))', re.IGNORECASE)


def parse_boundary(content_type: str) -> bytes:
    """The boundary in a Content-Type of multipart/form-data (RFC 2046, section 5.1.1).

    Raises HTTPException 415 for another type, 400 for an invalid boundary.
    """
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, "The body must be a form in multipart/form-data.")
    match = _BOUNDARY.search(content_type)
    value = (match[1] or match[2]) if match else ""
    if not 0 < len(value) <= 70 or not value.isascii():
        raise HTTPException(400, "The Content-Type of the form has no valid boundary.")
    return value.encode()


def _part_head_too_large() -> HTTPException:
    return HTTPException(
        400, f"The fields of a part of the form must not exceed {MAX_PART_HEAD_BYTES} bytes."
    )


class FormPart:
    """One part of the form: its header fields, and its bytes by iteration."""

    def __init__(self, headers: Headers, form: MultipartForm):
        self.headers = headers
        self._form = form

    def disposition_parameter(self, name: str) -> str | None:
        """A parameter of Content-Disposition, unescaped as browsers and curl escape it."""
        value = self.headers.get("content-disposition")
        at = value.find(";")
        # A search would start at each ";", which is quadratic for thousands of them.
        while at >= 0 and (match := _PARAMETER.match(value, at)):
            if match[1].lower() == name:
                text = match[2].replace('\\"', '"') if match[2] is not None else match[3]
                return re.sub("%22|%0D|%0A", _unescaped, text, flags=re.IGNORECASE)
            at = match.end()
        return None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._form.content()


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[0][1:], 16))


class MultipartForm:
    """The parts of the form whose bytes are `chunks`. Raises HTTPException if it is malformed."""

    def __init__(self, chunks: AsyncIterable[bytes], boundary: bytes):
        self._chunks = aiter(chunks)
        self._delimiter = b"\r\n--" + boundary
        # The first delimiter may be at the very start, without a line break.
        self._data = bytearray(b"\r\n")
        # Within a part or the preamble, before the next delimiter.
        self._in_content = True

    async def more(self) -> None:
        """Wait for the next bytes."""
        try:
            self._data += await anext(self._chunks)
        except StopAsyncIteration:
            raise HTTPException(400, "The form ends before its final delimiter.") from None

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes up to the next delimiter."""
        keep = len(self._delimiter) - 1
        while self._in_content:
            at = self._data.find(self._delimiter)
            end = at if at >= 0 else max(len(self._data) - keep, 0)
            block = bytes(self._data[:end])
            del self._data[:end]
            if at >= 0:
                del self._data[: len(self._delimiter)]
                self._in_content = False
            if block:
                yield block
            if self._in_content:
                await self.more()

    async def parts(self) -> AsyncIterator[FormPart]:
        """The parts in order. The unread rest of a part is skipped."""
        for _ in range(MAX_PARTS):
            async for _skipped in self.content():
                pass
            while len(self._data) < 2:
                await self.more()
            if self._data.startswith(b"--"):
                async for _epilogue in self._chunks:
                    pass
                return
            yield FormPart(await self._head(), self)
        raise HTTPException(413, f"The form must not have more than {MAX_PARTS} parts.")

    async def _head(self) -> Headers:
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > MAX_PART_HEAD_BYTES:
                raise _part_head_too_large()
            await self.more()
        if end > MAX_PART_HEAD_BYTES:
            raise _part_head_too_large()
        # The delimiter may be followed by white space (RFC 2046, section 5.1.1).
        padding, _, text = bytes(self._data[:end]).partition(b"\r\n")
        if padding.strip(b" \t"):
            raise HTTPException(400, "The form has a malformed delimiter.")
        del self._data[: end + 4]
        self._in_content = True
        try:
            lines = text.decode().split("\r\n")
        except UnicodeDecodeError:
            raise HTTPException(400, "The fields of a part of the form must be UTF-8.") from None
        fields = [line.partition(":") for line in lines if line]
        return Headers((name.strip(), value.strip()) for name, _, value in fields)
