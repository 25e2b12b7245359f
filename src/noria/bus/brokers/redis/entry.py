"""An entry of a stream: its event. Other programs can write entries, with other fields."""

from __future__ import annotations

from collections.abc import Sequence

from noria.bus import json_codec

# Digits of `a` at most: a larger number is none of noria's.
MAX_DIGITS = 6


def event_of(fields: Sequence[bytes]) -> tuple[bytes, int]:
    """Return the encoded event, and how often it was given out before this entry was written.

    `fields`: names and values, of which `e` is the event and `a` the number. If there is no `e`,
    the event is all fields as a list, which is no CloudEvent and is buried. ENTRY in `scripts` does
    the same in the server.
    """
    if len(fields) == 2 and fields[0] == b"e":
        return fields[1], 0
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    body = found.get(b"e")
    if body is None:
        body = json_codec.encode([each.decode("utf-8", "backslashreplace") for each in fields])
    attempts = found.get(b"a", b"")
    return body, int(attempts) if attempts.isdigit() and len(attempts) <= MAX_DIGITS else 0
