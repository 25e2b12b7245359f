"""Bytes from a stranger as text that is safe to show on a terminal."""

import codecs
import re

# Control characters but newline and tab, and what hides or reorders the text around it: a server
# must not move the cursor, change the title or make a line read as another.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """*text* with everything that a terminal would obey written as ``\\xNN`` or ``\\uNNNN``."""
    return _UNSAFE.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    return "\\r" if code == 13 else f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class Shower:
    """Turns bytes, cut anywhere, into text to show.

    UTF-8 where they are UTF-8 (a character split over two reads is put together again), ``\\xNN``
    where they are not, and nothing that a terminal would obey.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def show(self, data: bytes) -> str:
        """The text that *data* completes; at most three bytes are kept for the next call."""
        return escape(self._decoder.decode(data))

    def end(self) -> str:
        """What is left of a character that never came to its end."""
        return escape(self._decoder.decode(b"", final=True))
