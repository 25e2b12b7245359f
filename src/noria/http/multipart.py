"""multipart/form-data as it arrives (RFC 7578): each part's fields, then its bytes, never kept."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator

from noria.http.messages import Headers, HTTPException

HEAD_MAX = 8 * 1024  # bytes of fields a part
PARTS_MAX = 10_000

_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;\s"]+))', re.IGNORECASE)
_PARAMETER = re.compile(r'\s*;\s*([a-z-]+\*?)=(?:"((?:[^"\\]|\\.)*)"|([^;\s"]*))', re.IGNORECASE)


def parse_boundary(content_type: str) -> bytes:
    """Raises HTTPException if it is no multipart/form-data or has no boundary that RFC 2046
    allows."""
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, "Send a form as multipart/form-data, or a file by PUT.")
    match = _BOUNDARY.search(content_type)
    value = (match[1] or match[2]) if match else ""
    if not 0 < len(value) <= 70 or not value.isascii():
        raise HTTPException(400, "The Content-Type of the form has no valid boundary.")
    return value.encode()


class FormPart:
    """One field of the form: its header fields, and its bytes by iteration."""

    def __init__(self, headers: Headers, form: MultipartForm):
        self.headers = headers
        self._form = form

    def disposition_parameter(self, name: str) -> str | None:
        """``name`` or ``filename`` of Content-Disposition, as browsers and curl write them."""
        value = self.headers.get("content-disposition")
        at = value.find(";")
        # One after the other: a search would try at each ";" anew, of which there may be thousands.
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
    """The parts of `chunks`; one that was not read to its end is skipped. Raises HTTPException."""

    def __init__(self, chunks: AsyncIterable[bytes], boundary: bytes):
        self._chunks = aiter(chunks)
        self._delimiter = b"\r\n--" + boundary
        self._data = bytearray(b"\r\n")  # the first delimiter may stand at the very beginning
        self._within = True  # of a part, or of what comes before the first

    async def more(self) -> None:
        """Waits for the next bytes."""
        try:
            self._data += await anext(self._chunks)
        except StopAsyncIteration:
            raise HTTPException(400, "The form ends in the middle.") from None

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes up to the next delimiter."""
        keep = len(self._delimiter) - 1
        while self._within:
            at = self._data.find(self._delimiter)
            end = at if at >= 0 else max(len(self._data) - keep, 0)
            block = bytes(self._data[:end])
            del self._data[:end]
            if at >= 0:
                del self._data[: len(self._delimiter)]
                self._within = False
            if block:
                yield block
            if self._within:
                await self.more()

    async def parts(self) -> AsyncIterator[FormPart]:
        """Each part in turn."""
        for _ in range(PARTS_MAX):
            async for _skipped in self.content():
                pass
            while len(self._data) < 2:
                await self.more()
            if self._data.startswith(b"--"):
                async for _epilogue in self._chunks:
                    pass
                return
            yield FormPart(await self._head(), self)
        raise HTTPException(413, f"The form has too many parts: {PARTS_MAX} are the most.")

    async def _head(self) -> Headers:
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            if len(self._data) > HEAD_MAX:
                raise HTTPException(400, "The fields of a part of the form are too long.")
            await self.more()
        if end > HEAD_MAX:
            raise HTTPException(400, "The fields of a part of the form are too long.")
        # The line of the delimiter may end in blanks (RFC 2046, 5.1.1).
        padding, _, text = bytes(self._data[:end]).partition(b"\r\n")
        if padding.strip(b" \t"):
            raise HTTPException(400, "The form has a malformed delimiter.")
        del self._data[: end + 4]
        self._within = True
        try:
            lines = text.decode().split("\r\n")
        except UnicodeDecodeError:
            raise HTTPException(400, "The fields of a part of the form are not UTF-8.") from None
        fields = [line.partition(":") for line in lines if line]
        return Headers((name.strip(), value.strip()) for name, _, value in fields)
