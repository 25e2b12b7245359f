"""Bytes from a server as text that is safe to show on a terminal."""

import codecs
import re

# Control characters except newline and tab, and characters that hide or reorder the text around
# them: a server must not move the cursor, change the title or make one line look like another.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    r"""Return *text* with every unsafe character written as ``\xNN`` or ``\uNNNN``."""
    return _UNSAFE.sub(_escape_character, text)


def escape_line(text: str) -> str:
    """Return the same for *text* that is shown on one line."""
    return escape(text).replace("\n", "\\n")


def _escape_character(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\\r" if code == 13 else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class TerminalDecoder:
    r"""An incremental decoder: UTF-8 to safe text, other bytes to ``\xNN``.

    A character that is split over two reads is decoded as one.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def decode(self, data: bytes) -> str:
        """Return the text that *data* completes. Keeps at most three bytes for the next call."""
        return escape(self._decoder.decode(data))

    def flush(self) -> str:
        """Return the bytes of an incomplete character at the end."""
        return escape(self._decoder.decode(b"", final=True))
