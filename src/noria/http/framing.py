"""Where requests begin in the bytes of a connection, and the check of each request line.

llhttp reports no offsets. It skips any CR and LF before a request line and any number of spaces
within it, and it accepts RTSP and ICE; RFC 9112, sections 2.2 and 3, allow none of that.
"""

from __future__ import annotations

import re

from noria.http.messages import HTTPException

EMPTY_LINE = b"\r\n\r\n"  # ends a head: bare LF is refused
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110, 5.6.2
# What is missing here (a version in HTTP/0.9, a known method) is reported by the parser.
_LINE = re.compile(_TOKEN + rb"+(?: [^\x00-\x20\x7f]+(?: HTTP/([0-9]\.[0-9]))?)?\r\n")
_VERSIONS = (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+(?=[;\r\n])")
_METHOD = re.compile(_TOKEN + rb"+(?: .*)?", re.DOTALL)
_MALFORMED = (
    "The request line is malformed: it has a method, a target and HTTP/1.1, with one space "
    "between them."
)


def next_piece(tail: bytes, data: bytes, at: int) -> int:
    """The offset in `data` after the first empty line from `at` on; the end of `data` if none.

    `tail` is what came before `data`, at most three bytes: the line may have begun there.
    """
    if tail and not at:
        found = (tail + data[:3]).find(EMPTY_LINE)
        if found >= 0:
            return found + len(EMPTY_LINE) - len(tail)
    found = data.find(EMPTY_LINE, at)
    return len(data) if found < 0 else found + len(EMPTY_LINE)


class ChunkedBody:
    """Finds the end of a chunked body (RFC 9112, 7.1) without searching its content.

    The parser checks the framing. Where it is malformed, this only has to give up.
    """

    __slots__ = ("_left", "_line", "_trailers", "malformed")

    def __init__(self) -> None:
        self._left = 0  # bytes of a chunk and of the CRLF after it that are still to come
        self._line = b""  # of a chunk header or a trailer, as far as it has come
        self._trailers = False  # the last chunk was there
        self.malformed = False

    def find_end(self, data: bytes, at: int) -> int:
        """The offset in `data` after the body, which goes on at `at`; the end of `data` if later.

        Once `malformed`, after the next empty line.
        """
        while not self.malformed:
            at += self._left
            if at >= len(data):
                self._left = at - len(data)
                return len(data)
            self._left = 0
            end = data.find(b"\n", at) + 1
            if not end:
                self._line += data[at:]
                return len(data)
            line, self._line, at = self._line + data[at:end], b"", end
            if self._trailers:
                if line == b"\r\n":
                    return at
            elif size := _CHUNK_SIZE.match(line):
                count = int(size[0][-16:], 16)
                self._trailers = not count
                self._left = count + len(b"\r\n") if count else 0
            else:
                self.malformed = True
        return next_piece(b"", data, at)


def check_request_line(seen: bytes, data: bytes) -> bytes | None:
    """Checks the request line that begins with `seen` and continues in `data`.

    Returns None once the line is complete and valid, else the bytes of it so far. Empty lines
    before it are ignored (RFC 9112, 2.2). Raises HTTPException 400 or 505.
    """
    at = 0
    while end := data.find(b"\n", at) + 1:
        line = seen + data[at:end]
        if line != b"\r\n":
            parts = line.split(b" ")
            # What else may not be in a target is refused by the parser.
            usual = len(parts) == 3 and parts[2] in _VERSIONS and parts[0].isalpha() and parts[1]
            if not usual:
                _check_line(line)
            return None
        seen, at = b"", end
    return seen + data[at:]


def _check_line(line: bytes) -> None:
    found = _LINE.fullmatch(line)
    if found is None:
        raise HTTPException(400, _MALFORMED)
    if found[1] not in (b"1.1", b"1.0", None):
        raise HTTPException(505, "This server speaks HTTP/1.1.")


def check_unfinished_line(seen: bytes) -> None:
    """Checks a request line that the parser has refused before its end, as the whole line would be.

    Returns if the parser's own reason is to be answered. Raises HTTPException 400 or 505.
    """
    if not _METHOD.fullmatch(seen):
        raise HTTPException(400, _MALFORMED)
    if _LINE.fullmatch(seen + b"\r\n"):
        _check_line(seen + b"\r\n")
