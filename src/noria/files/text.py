"""Text files: decode what a binary file reads, and encode what it writes."""

from __future__ import annotations

import codecs
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from noria.files.binary import BinaryFile

DECODE_CHUNK_SIZE = 64 * 1024  # bytes
# Bytes that are lost if decoding fails in them, as in io.TextIOWrapper.
ERROR_CHUNK_SIZE = 8192
ANY_ENDING = re.compile("\r\n|\r|\n")

# Bits of the number that tell() returns: the offset in bytes, the decoder's flags, and the count of
# characters to skip.
FLAGS_SHIFT = 64
SKIP_SHIFT = 128
LOW_64_BITS = (1 << 64) - 1


class Segment(NamedTuple):
    """A decoded chunk of the file with unread characters."""

    start: int  # its offset in the file
    state: tuple[bytes, int]  # the decoder's state before it
    data: bytes
    length: int  # in characters


class TextFile:
    """`noria.open(path)`: the methods of io.TextIOWrapper as coroutines.

    Calls that find their characters decoded do not wait. `tell()` returns a number for `seek()`. It
    is the offset in bytes if decoding can start there, as it can at any character in UTF-8.
    """

    def __init__(
        self,
        buffer: BinaryFile,
        encoding: str,
        errors: str,
        newline: str | None,
        line_buffering: bool,
        mode: str,
    ) -> None:
        self.buffer = buffer
        self.mode = mode
        self.write_through = False
        self.line_buffering = line_buffering
        self._lock = buffer._lock
        self._decoded_chars = ""  # unread from `_decoded_chars_used` on
        self._decoded_chars_used = 0
        self._segments: deque[Segment] = deque()
        self._decoder_at_position = False  # the decoder's state belongs to the position
        self._configure(encoding, errors, newline)
        if buffer._mode.writable and buffer._pos > 0:
            self._encoder.setstate(0)  # no byte order mark: it is for the file's beginning

    def _configure(self, encoding: str, errors: str, newline: str | None) -> None:
        self.encoding, self.errors, self._newline = encoding, errors, newline
        self._decoder = self._new_decoder()
        self._encoder = codecs.getincrementalencoder(encoding)(errors)
        self._find_line_end = _line_end_finder(newline)
        self._written_newline = newline if newline not in (None, "", "\n") else None
        if newline is None and os.linesep != "\n":
            self._written_newline = os.linesep

    def _new_decoder(self) -> Any:
        decoder: Any = codecs.getincrementaldecoder(self.encoding)(self.errors)
        if self._newline in (None, ""):
            return io.IncrementalNewlineDecoder(decoder, self._newline is None)
        return decoder

    # Attributes and checks.

    @property
    def _file(self) -> Self:
        return self

    @property
    def name(self) -> Any:
        return self.buffer.name

    @property
    def closed(self) -> bool:
        return self.buffer.closed

    @property
    def newlines(self) -> Any:
        """The line endings that were read so far, with universal newlines."""
        return getattr(self._decoder, "newlines", None)

    def fileno(self) -> int:
        return self.buffer.fileno()

    def readable(self) -> bool:
        return self.buffer.readable()

    async def writable(self) -> bool:
        return await self.buffer.writable()

    async def seekable(self) -> bool:
        return await self.buffer.seekable()

    async def isatty(self) -> bool:
        return await self.buffer.isatty()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return (
            f"<noria TextFile name={self.name!r} mode={self.mode!r} "
            f"encoding={self.encoding!r}{state}>"
        )

    # Reading.

    async def read(self, size: int | None = -1) -> str:
        """Read `size` characters, fewer only at the end of the file; -1: all that is left."""
        if size is None:
            size = -1
        end = self._decoded_chars_used + size
        if size > 0 and end <= len(self._decoded_chars) and not self._lock.locked():
            return self._take(end)
        async with self._lock:
            self.buffer._check_reading()
            if size < 0:
                data = await self.buffer._read(-1)
                text: str = self._decoded_chars[self._decoded_chars_used :] + self._decoder.decode(
                    data, True
                )
                self._drop_decoded()
                return text
            while (
                len(self._decoded_chars) - self._decoded_chars_used < size
                and await self._decode_more()
            ):
                pass
            return self._take(self._decoded_chars_used + size)

    async def readline(self, size: int | None = -1) -> str:
        """Read through the next line ending, at most `size` characters."""
        async with self._lock:
            self.buffer._check_reading()
            seen = 0
            while True:
                end = self._find_line_end(self._decoded_chars, self._decoded_chars_used + seen)
                unread = len(self._decoded_chars) - self._decoded_chars_used
                if size is not None and size >= 0 and (end or unread >= size):
                    limit = self._decoded_chars_used + size
                    return self._take(min(end or limit, limit))
                if end:
                    return self._take(end)
                seen = max(unread - 1, 0)  # half of a two-character ending may be decoded
                if not await self._decode_more():
                    return self._take(len(self._decoded_chars))

    async def readlines(self, hint: int | None = -1) -> list[str]:
        lines, size = [], 0
        async for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint < size:
                break
        return lines

    def __aiter__(self) -> Self:
        self.buffer._check()
        return self

    async def __anext__(self) -> str:
        end = self._find_line_end(self._decoded_chars, self._decoded_chars_used)
        if end and not self._lock.locked():
            line = self._decoded_chars[self._decoded_chars_used : end]
            self._decoded_chars_used = end
            return line
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration

    async def _decode_more(self) -> bool:
        """Decode another chunk. Returns False at the end of the file, where an incomplete sequence
        may still decode to characters."""
        self._drop_read_segments()
        positioned = self.buffer._pos >= 0
        if self.buffer._write_buf:
            await self.buffer._flush()
        start = self.buffer._tell() if positioned else 0
        data = await self.buffer._read1(max(DECODE_CHUNK_SIZE, len(self._decoded_chars)))
        state = self._decoder.getstate()
        try:
            text = self._decoder.decode(data, not data)
        except UnicodeError:
            # io.TextIOWrapper returns the text before the undecodable bytes, and skips only the
            # 8 KiB that they are in.
            self._decoder.setstate(state)
            self.buffer._push_back(data[ERROR_CHUNK_SIZE:])
            data = data[:ERROR_CHUNK_SIZE]
            try:
                text = self._decoder.decode(data, not data)
            except UnicodeError:
                self._decoded_chars_used = len(self._decoded_chars)
                raise
        self._decoded_chars = (
            self._decoded_chars[self._decoded_chars_used :] + text
            if not self._segments
            else self._decoded_chars + text
        )
        if not self._segments:
            self._decoded_chars_used = 0
        if positioned:
            self._decoder_at_position = True
            self._segments.append(Segment(start, state, data, len(text)))
        return bool(data)

    def _drop_read_segments(self) -> None:
        """Remove segments whose characters are all read."""
        while self._segments and self._decoded_chars_used >= self._segments[0].length:
            count = self._segments.popleft().length
            self._decoded_chars = self._decoded_chars[count:]
            self._decoded_chars_used -= count

    def _take(self, end: int) -> str:
        text = self._decoded_chars[self._decoded_chars_used : end]
        self._decoded_chars_used += len(text)
        return text

    def _drop_decoded(self) -> None:
        self._decoded_chars, self._decoded_chars_used = "", 0
        self._segments.clear()
        self._decoder_at_position = False

    # Writing.

    async def write(self, text: str) -> int:
        """Write all of `text`; returns the count of characters.

        If cancelled, the CancelledError has as `result` the count of bytes that were written.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.buffer._check_writing()
        data = text
        if self._written_newline is not None:
            data = data.replace("\n", self._written_newline)
        encoded = self._encoder.encode(data)
        self._drop_decoded()
        if self.buffer._mode.readable:
            self._decoder.reset()
        await self.buffer.write(encoded)
        if self.write_through or (self.line_buffering and ("\n" in text or "\r" in text)):
            await self.buffer.flush()
        return len(text)

    async def writelines(self, lines: Iterable[str]) -> None:
        self.buffer._check()
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        await self.buffer.flush()

    async def fsync(self) -> None:
        """Flush, and wait until the data is on the device: fsync(2)."""
        await self.buffer.fsync()

    async def fdatasync(self) -> None:
        await self.buffer.fdatasync()

    async def truncate(self, size: int | None = None) -> int:
        """Set the file's size in bytes, by default to the position."""
        await self.flush()
        return await self.buffer.truncate(await self.tell() & LOW_64_BITS if size is None else size)

    # Position.

    async def tell(self) -> int:
        """Return the position for seek(). Raises io.UnsupportedOperation for a pipe."""
        self.buffer._check_seekable()
        if self.buffer._append:
            await self.buffer.flush()  # only the kernel knows where it appends
        self._drop_read_segments()
        if not self._decoder_at_position:
            return self.buffer._tell()
        if not self._segments:
            flags: int
            pending, flags = self._decoder.getstate()
            return (self.buffer._tell() - len(pending)) | flags << FLAGS_SHIFT
        segment = self._segments[0]
        pending, flags = segment.state
        data, start = pending + segment.data, segment.start - len(pending)
        if not self._decoded_chars_used:
            return start | flags << FLAGS_SHIFT
        return self._find_cookie(start, flags, data, self._decoded_chars_used)

    def _find_cookie(self, start: int, flags: int, data: bytes, wanted: int) -> int:
        """The number for the position after `wanted` characters of `data`.

        `start` is the offset of `data`, `flags` the decoder's state before it.
        """
        decoder = self._new_decoder()

        def decoded(size: int) -> int:
            decoder.setstate((b"", flags))
            return len(decoder.decode(data[:size]))

        low, high = 0, len(data)  # the most bytes that decode to at most `wanted` characters
        while low < high:
            middle = (low + high + 1) // 2
            if decoded(middle) <= wanted:
                low = middle
            else:
                high = middle - 1
        # Of these, the fewest that decode to as many: there the decoder buffers no bytes.
        most, count = low, decoded(low)
        low = 0
        while low < most:
            middle = (low + most) // 2
            if decoded(middle) < count:
                low = middle + 1
            else:
                most = middle
        decoded(most)
        after: int
        kept, after = decoder.getstate()
        return (start + most - len(kept)) | after << FLAGS_SHIFT | (wanted - count) << SKIP_SHIFT

    async def seek(self, cookie: int, whence: int = os.SEEK_SET) -> int:
        """Go to a number that tell() returned, to 0, or with SEEK_END and 0 to the end."""
        self.buffer._check_seekable()
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if whence != os.SEEK_SET and cookie != 0:
            raise io.UnsupportedOperation("can't do nonzero cur-relative or end-relative seeks")
        if whence == os.SEEK_CUR:
            cookie, whence = await self.tell(), os.SEEK_SET
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie}")
        async with self._lock:
            position = await self.buffer._seek(cookie & LOW_64_BITS, whence)
            flags, skip = cookie >> FLAGS_SHIFT & LOW_64_BITS, cookie >> SKIP_SHIFT
            self._drop_decoded()
            if whence == os.SEEK_END or not cookie:
                self._decoder.reset()
            else:
                self._decoder.setstate((b"", flags))
            if position:
                self._encoder.setstate(0)
            else:
                self._encoder.reset()
            self._decoder_at_position = whence == os.SEEK_SET and bool(cookie)
            while len(self._decoded_chars) < skip and await self._decode_more():
                pass
            if len(self._decoded_chars) < skip:
                raise OSError("can't restore logical file position")
            self._decoded_chars_used = skip
        return position if whence == os.SEEK_END else cookie

    async def reconfigure(
        self,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: Any = ...,
        line_buffering: bool | None = None,
        write_through: bool | None = None,
    ) -> None:
        """Flush, and change the settings that are given.

        Raises io.UnsupportedOperation for the encoding or newline of a file that has been read.
        """
        changed = encoding is not None or errors is not None or newline is not ...
        if changed and (self._decoded_chars or self._segments):
            raise io.UnsupportedOperation(
                "the encoding or newline of a file cannot be changed after it has been read"
            )
        await self.flush()
        if changed:
            if errors is None:
                errors = self.errors if encoding is None else "strict"
            newline = self._newline if newline is ... else newline
            checked = io.TextIOWrapper(io.BytesIO(), encoding or self.encoding, errors, newline)
            self._configure(checked.encoding, errors, newline)
            if self.buffer._pos and self.buffer._tell():
                self._encoder.setstate(0)
        if line_buffering is not None:
            self.line_buffering = line_buffering
        if write_through is not None:
            self.write_through = write_through

    # Closing.

    def detach(self) -> BinaryFile:
        """Return the binary file. Characters that are decoded and not read are lost."""
        buffer = self.buffer
        buffer._check()
        self.buffer = _DETACHED
        return buffer

    async def close(self) -> None:
        self._drop_decoded()
        await self.buffer.close()

    async def __aenter__(self) -> Self:
        self.buffer._check()
        return self

    async def __aexit__(self, *what: object) -> None:
        await self.close()


class _Detached:
    """`buffer` after detach."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("underlying buffer has been detached")


_DETACHED: Any = _Detached()


def _line_end_finder(newline: str | None) -> Callable[[str, int], int]:
    """A function of (text, start) that returns the end of the next line, 0 if there is none."""
    if newline == "":

        def any_ending(text: str, start: int) -> int:
            found = ANY_ENDING.search(text, start)
            return found.end() if found else 0

        return any_ending
    ending = newline or "\n"
    size = len(ending)

    def one_ending(text: str, start: int) -> int:
        at = text.find(ending, start)
        return at + size if at >= 0 else 0

    return one_ending
