"""Text files: what a binary file reads, decoded, and what is written, encoded."""

from __future__ import annotations

import codecs
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from noria.files.binary import BinaryFile

CHUNK = 64 * 1024  # bytes decoded at a time
PIECE = 8192  # bytes that are lost where they cannot be decoded, as with io.TextIOWrapper
ANY_ENDING = re.compile("\r\n|\r|\n")

# What tell() returns: the offset in bytes, then the decoder's flags, then characters to skip.
FLAGS_SHIFT = 64
SKIP_SHIFT = 128
LOW = (1 << 64) - 1


class Segment(NamedTuple):
    """A chunk of the file whose characters are not all read."""

    start: int  # where it is in the file
    state: tuple[bytes, int]  # of the decoder, before it
    data: bytes
    length: int  # characters


class TextFile:
    """`noria.open(path)`: the methods of io.TextIOWrapper as coroutines.

    Calls that find their characters decoded do not wait. `tell()` gives a number for `seek()`; it
    is the offset in bytes where decoding can start there, as it can everywhere in UTF-8.
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
        self._chars = ""  # decoded; those from `_used` on are not yet read
        self._used = 0
        self._segments: deque[Segment] = deque()
        self._decoding = False  # the decoder's state is that of where the file stands
        self._configure(encoding, errors, newline)
        if buffer._mode.writable and buffer._pos > 0:
            self._encoder.setstate(0)  # a byte order mark is only for the beginning

    def _configure(self, encoding: str, errors: str, newline: str | None) -> None:
        self.encoding, self.errors, self._newline = encoding, errors, newline
        self._decoder = self._new_decoder()
        self._encoder = codecs.getincrementalencoder(encoding)(errors)
        self._find = _finder(newline)
        self._written_newline = newline if newline not in (None, "", "\n") else None
        if newline is None and os.linesep != "\n":
            self._written_newline = os.linesep

    def _new_decoder(self) -> Any:
        decoder: Any = codecs.getincrementaldecoder(self.encoding)(self.errors)
        if self._newline in (None, ""):
            return io.IncrementalNewlineDecoder(decoder, self._newline is None)
        return decoder

    # What needs no wait.

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
        """The kinds of line endings seen so far, with universal newlines."""
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
        """`size` characters, fewer only at the end; all that is left with -1."""
        if size is None:
            size = -1
        end = self._used + size
        if size > 0 and end <= len(self._chars) and not self._lock.locked():
            return self._cut(end)
        async with self._lock:
            self.buffer._check_reading()
            if size < 0:
                data = await self.buffer._read(-1)
                text: str = self._chars[self._used :] + self._decoder.decode(data, True)
                self._drop()
                return text
            while len(self._chars) - self._used < size and await self._more():
                pass
            return self._cut(self._used + size)

    async def readline(self, size: int | None = -1) -> str:
        """Up to and with the next line ending, `size` characters at most."""
        async with self._lock:
            self.buffer._check_reading()
            seen = 0
            while True:
                end = self._find(self._chars, self._used + seen)
                unread = len(self._chars) - self._used
                if size is not None and size >= 0 and (end or unread >= size):
                    limit = self._used + size
                    return self._cut(min(end or limit, limit))
                if end:
                    return self._cut(end)
                seen = max(unread - 1, 0)  # an ending of two may be half there
                if not await self._more():
                    return self._cut(len(self._chars))

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
        end = self._find(self._chars, self._used)
        if end and not self._lock.locked():
            line = self._chars[self._used : end]
            self._used = end
            return line
        line = await self.readline()
        if line:
            return line
        raise StopAsyncIteration

    async def _more(self) -> bool:
        """Decodes a further chunk. False at the end of the file, which may still give characters:
        those of a sequence that the end cuts off."""
        self._shift()
        positioned = self.buffer._pos >= 0
        if self.buffer._pending:
            await self.buffer._flush()
        start = self.buffer._tell() if positioned else 0
        data = await self.buffer._read1(max(CHUNK, len(self._chars)))
        state = self._decoder.getstate()
        try:
            text = self._decoder.decode(data, not data)
        except UnicodeError:
            # The built-in delivers what comes before the bytes that cannot be decoded, and skips
            # no more than the piece that they are in.
            self._decoder.setstate(state)
            self.buffer._give_back(data[PIECE:])
            data = data[:PIECE]
            try:
                text = self._decoder.decode(data, not data)
            except UnicodeError:
                self._used = len(self._chars)
                raise
        self._chars = self._chars[self._used :] + text if not self._segments else self._chars + text
        if not self._segments:
            self._used = 0
        if positioned:
            self._decoding = True
            self._segments.append(Segment(start, state, data, len(text)))
        return bool(data)

    def _shift(self) -> None:
        """Lets go of segments that are read to their end."""
        while self._segments and self._used >= self._segments[0].length:
            count = self._segments.popleft().length
            self._chars = self._chars[count:]
            self._used -= count

    def _cut(self, end: int) -> str:
        text = self._chars[self._used : end]
        self._used += len(text)
        return text

    def _drop(self) -> None:
        self._chars, self._used = "", 0
        self._segments.clear()
        self._decoding = False

    # Writing.

    async def write(self, text: str) -> int:
        """The count of characters, which is all of them. They are in the file's buffer, as a
        binary file's bytes are; a cancelled write has bytes as its `result`."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.buffer._check_writing()
        data = text
        if self._written_newline is not None:
            data = data.replace("\n", self._written_newline)
        encoded = self._encoder.encode(data)
        self._drop()
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
        """Flushes, and waits until the device has it, fsync(2)."""
        await self.buffer.fsync()

    async def fdatasync(self) -> None:
        await self.buffer.fdatasync()

    async def truncate(self, size: int | None = None) -> int:
        """Cut or lengthened to `size` bytes, or to where the file stands."""
        await self.flush()
        return await self.buffer.truncate(await self.tell() & LOW if size is None else size)

    # The position.

    async def tell(self) -> int:
        """Where the file stands, for seek(). Raises io.UnsupportedOperation for a pipe."""
        self.buffer._check_seekable()
        if self.buffer._append:
            await self.buffer.flush()  # only then it is known where that went
        self._shift()
        if not self._decoding:
            return self.buffer._tell()
        if not self._segments:
            flags: int
            pending, flags = self._decoder.getstate()
            return (self.buffer._tell() - len(pending)) | flags << FLAGS_SHIFT
        segment = self._segments[0]
        pending, flags = segment.state
        data, start = pending + segment.data, segment.start - len(pending)
        if not self._used:
            return start | flags << FLAGS_SHIFT
        return self._position(start, flags, data, self._used)

    def _position(self, start: int, flags: int, data: bytes, wanted: int) -> int:
        """The position after `wanted` characters of `data`, which is decoded from `flags` on."""
        decoder = self._new_decoder()

        def decoded(size: int) -> int:
            decoder.setstate((b"", flags))
            return len(decoder.decode(data[:size]))

        low, high = 0, len(data)  # the most bytes that give no more characters than wanted
        while low < high:
            middle = (low + high + 1) // 2
            if decoded(middle) <= wanted:
                low = middle
            else:
                high = middle - 1
        # Of these, the fewest that give as many: the decoder has nothing kept back there.
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
        """To what tell() gave, to 0, or with SEEK_END and 0 to the end."""
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
            position = await self.buffer._seek(cookie & LOW, whence)
            flags, skip = cookie >> FLAGS_SHIFT & LOW, cookie >> SKIP_SHIFT
            self._drop()
            if whence == os.SEEK_END or not cookie:
                self._decoder.reset()
            else:
                self._decoder.setstate((b"", flags))
            if position:
                self._encoder.setstate(0)
            else:
                self._encoder.reset()
            self._decoding = whence == os.SEEK_SET and bool(cookie)
            while len(self._chars) < skip and await self._more():
                pass
            if len(self._chars) < skip:
                raise OSError("can't restore logical file position")
            self._used = skip
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
        """Flushes and changes what is given. Encoding and newline of a file that has been read
        cannot be changed: io.UnsupportedOperation."""
        changed = encoding is not None or errors is not None or newline is not ...
        if changed and (self._chars or self._segments):
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

    # The end.

    def detach(self) -> BinaryFile:
        """The binary file. What is decoded and not read is lost with this one."""
        buffer = self.buffer
        buffer._check()
        self.buffer = _DETACHED
        return buffer

    async def close(self) -> None:
        self._drop()
        await self.buffer.close()

    async def __aenter__(self) -> Self:
        self.buffer._check()
        return self

    async def __aexit__(self, *what: object) -> None:
        await self.close()


class _Detached:
    """In the place of the binary file once that is detached."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("underlying buffer has been detached")


_DETACHED: Any = _Detached()


def _finder(newline: str | None) -> Callable[[str, int], int]:
    """A function of (text, start) that gives where the next line ends, 0 if it does not."""
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
