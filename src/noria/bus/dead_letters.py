"""Dead letters: events whose handler failed for good, with the reason."""

from __future__ import annotations

import base64
import traceback
from dataclasses import dataclass
from types import NoneType
from typing import Any

from noria.bus import json_codec
from noria.bus.contract import StoredLetter
from noria.bus.event import Event, decode, now
from noria.errors import InvalidEvent, error_message

# Characters that are kept: of a traceback the last ones, of an error's message the first ones.
MAX_TRACEBACK = 4000
MAX_ERROR = 1000
# Bytes that are kept of what is no event.
MAX_INVALID_BODY = 1 << 19
# The fields of a letter.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "type": str,
    "group": (str, NoneType),
    "error": str,
    "traceback": str,
    "attempts": int,
    "time": str,
    "worker": str,
}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a group could not handle.

    `id`: the broker's, for `Bus.replay`. `body`: the encoded event, which may be invalid. `error`:
    the exception's class and message. `attempts`: how often the event was given to a handler.
    `time`: when it was buried, RFC 3339. `worker`: the process that gave up.
    """

    id: str
    type: str
    group: str | None
    body: bytes
    error: str
    traceback: str
    attempts: int
    time: str
    worker: str

    @property
    def event(self) -> Event:
        """The event. Raises InvalidEvent if that is what was wrong with it."""
        return decode(self.body, self.attempts)

    def as_dict(self) -> dict[str, Any]:
        """Return the letter for JSON output, the event as an object."""
        try:
            event = json_codec.decode(self.body)
        except ValueError:
            event = None
        return {
            "id": self.id,
            "type": self.type,
            "group": self.group,
            "error": self.error,
            "traceback": self.traceback,
            "attempts": self.attempts,
            "time": self.time,
            "worker": self.worker,
            "event": event,
        }


def encode_letter(
    body: bytes,
    *,
    type: str | None,
    group: str | None,
    error: BaseException,
    attempts: int,
    worker: str,
) -> bytes:
    """Return a dead letter in JSON.

    `body` is the event as it was delivered, and `type` its type; None if `body` is no event.
    """
    lines = "".join(traceback.format_exception(error))
    head = json_codec.encode(
        {
            "type": _text(type or ""),
            "group": group,
            "error": _text(f"{error.__class__.__name__}: {error_message(error)}"[:MAX_ERROR]),
            "traceback": _text(lines[-MAX_TRACEBACK:]),
            "attempts": attempts,
            "time": now(),
            "worker": worker,
        }
    )
    # An event is put in as it is: base 64 could exceed the broker's limit.
    if type is not None:
        return head[:-1] + b',"event":' + body + b"}"
    encoded = base64.b64encode(body[:MAX_INVALID_BODY])
    return head[:-1] + b',"body_base64":"' + encoded + b'"}'


def _text(text: str) -> str:
    """Replace lone surrogates, which UTF-8 does not have."""
    return text.encode("utf-8", "backslashreplace").decode()


def decode_letter(stored: StoredLetter) -> DeadLetter:
    """Return the letter. Raises InvalidEvent if the broker has something else there."""
    try:
        fields = json_codec.decode(stored.body)
        for name, kind in _KINDS.items():
            if not isinstance(fields[name], kind):
                raise TypeError(f"its {name} is {fields[name]!r}")
        return DeadLetter(
            stored.id,
            fields["type"],
            fields["group"],
            _body(fields),
            fields["error"],
            fields["traceback"],
            fields["attempts"],
            fields["time"],
            fields["worker"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidEvent(f"dead letter {stored.id} is none of noria's: {error!r}") from None


def _body(fields: dict[str, Any]) -> bytes:
    if "event" in fields:
        return json_codec.encode(fields["event"])
    return base64.b64decode(fields["body_base64"])
