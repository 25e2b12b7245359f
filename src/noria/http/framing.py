"""Where requests begin in the bytes of a connection, and a strict check of each request line.

llhttp reports no offsets. It skips any CR and LF before a request line and any number of spaces
within it, and it accepts RTSP and ICE; RFC 9112, sections 2.2 and 3, allow none of that.
"""

from __future__ import annotations

import re

from noria.http.messages import HTTPException

# The end of a head. A bare LF is rejected.
EMPTY_LINE = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110, 5.6.2
# The version is optional: the parser reports its absence (HTTP/0.9) and unknown methods.
_LINE = re.compile(_TOKEN + rb"+(?: [^\x00-\x20\x7f]+(?: HTTP/([0-9]\.[0-9]))?)?\r\n")
_VERSIONS = (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+(?=[;\r\n])")
_METHOD = re.compile(_TOKEN + rb"+(?: .*)?", re.DOTALL)
_MALFORMED = (
    "The request line is malformed: it must be a method, a target and HTTP/1.1, separated by "
    "single spaces."
)


def next_piece(tail: bytes, data: bytes, at: int) -> int:
    """The offset in `data` behind the first empty line from `at` on, or the end of `data`.

    `tail` is the last three bytes before `data`: the empty line may begin there.
    """
    if tail and not at:
        found = (tail + data[:3]).find(EMPTY_LINE)
        if found >= 0:
            return found + len(EMPTY_LINE) - len(tail)
    found = data.find(EMPTY_LINE, at)
    return len(data) if found < 0 else found + len(EMPTY_LINE)


class ChunkedBody:
    """Finds the end of a chunked body (RFC 9112, 7.1) without searching its content.

    The parser checks the framing; where it is malformed, this sets `malformed`.
    """

    __slots__ = ("_in_trailers", "_line", "_remaining", "malformed")

    def __init__(self) -> None:
        # Bytes of a chunk and of its final CRLF that have not arrived.
        self._remaining = 0
        # An incomplete chunk header or trailer.
        self._line = b""
        # The last chunk has arrived.
        self._in_trailers = False
        self.malformed = False

    def find_end(self, data: bytes, at: int) -> int:
        """The offset in `data` behind the body, which continues at `at`, or the end of `data`.

        If `malformed`, the offset is behind the next empty line.
        """
        while not self.malformed:
            at += self._remaining
            if at >= len(data):
                self._remaining = at - len(data)
                return len(data)
            self._remaining = 0
            end = data.find(b"\n", at) + 1
            if not end:
                self._line += data[at:]
                return len(data)
            line, self._line, at = self._line + data[at:end], b"", end
            if self._in_trailers:
                if line == b"\r\n":
                    return at
            elif size := _CHUNK_SIZE.match(line):
                count = int(size[0][-16:], 16)
                self._in_trailers = not count
                self._remaining = count + len(b"\r\n") if count else 0
            else:
                self.malformed = True
        return next_piece(b"", data, at)


def check_request_line(line_start: bytes, data: bytes) -> bytes | None:
    """Check the request line that begins with `line_start` and continues in `data`.

    Returns None once the line is complete and valid, else the bytes of it so far. Empty lines
    before it are ignored (RFC 9112, section 2.2). Raises HTTPException 400 or 505.
    """
    at = 0
    while end := data.find(b"\n", at) + 1:
        line = line_start + data[at:end]
        if line != b"\r\n":
            parts = line.split(b" ")
            # The parser rejects the other bytes that a target must not contain.
            usual = len(parts) == 3 and parts[2] in _VERSIONS and parts[0].isalpha() and parts[1]
            if not usual:
                _check_line(line)
            return None
        line_start, at = b"", end
    return line_start + data[at:]


def _check_line(line: bytes) -> None:
    found = _LINE.fullmatch(line)
    if found is None:
        raise HTTPException(400, _MALFORMED)
    if found[1] not in (b"1.1", b"1.0", None):
        raise HTTPException(505, "The server supports HTTP/1.1 only.")


def check_unfinished_line(line_start: bytes) -> None:
    """Check a request line that the parser has rejected before its end arrived.

    Returns if the parser's own error is to be reported. Raises HTTPException 400 or 505.
    """
    if not _METHOD.fullmatch(line_start):
        raise HTTPException(400, _MALFORMED)
    if _LINE.fullmatch(line_start + b"\r\n"):
        _check_line(line_start + b"\r\n")
