"""Events: CloudEvents 1.0 in JSON's structured mode.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and
formats/json-format.md. Extensions used: partitioning (`partitionkey`) and distributed tracing
(`traceparent`, `tracestate`).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import itertools
import os
import re
import socket
import sys
import time
from typing import Any
from urllib.parse import quote

from noria.bus import json_codec
from noria.bus.contract import GROUP_PATTERN, MAX_NAME_LENGTH, TYPE_PATTERN
from noria.errors import EventTooLarge, InvalidEvent

CONTENT_TYPE = "application/cloudevents+json"
JSON = "application/json"
BINARY = "application/octet-stream"

# The encoded event, in bytes: NATS's default of 1 MiB, less room for headers and for the error with
# which it may become a dead letter.
DEFAULT_MAX_SIZE = (1 << 20) - (16 << 10)

KEY = "partitionkey"
# An extension of noria: the only group that handles this event, which was a dead letter of it.
ONLY_GROUP = "noriagroup"

_EXTENSION = re.compile(r"[a-z0-9]+")
_RESERVED = frozenset({"specversion", "id", "source", "type", "data", "data_base64"})
_OPTIONAL = frozenset({"time", "subject", "datacontenttype", "dataschema"})
_REQUIRED = ("id", "source", "type")

# Names that TYPE_PATTERN has matched; bounded.
_checked_types: set[str] = set()
_MAX_CHECKED_TYPES = 10_000


class Event:
    """An event. Handlers get one; `Bus.publish` takes one.

    Args:
        type: words of letters, digits, ``_`` and ``-``, separated by dots.
        data: what JSON can express, or dataclasses and other types that msgspec encodes; bytes are
            sent in base 64. NaN and Infinity become null by msgspec, and raise InvalidEvent without
            it. None: no data.
        id: unique for the source; None: made from the process and a counter.
        source: a URI reference; None: the host and the program, `default_source`.
        subject, time, datacontenttype, dataschema: CloudEvents attributes; `time` is an aware
            datetime or a string (RFC 3339), None for now.
        key: events of a type with the same key keep their order; the attribute ``partitionkey``.
        extensions: further attributes; names of lower-case letters and digits, values str, int or
            bool.

    Raises InvalidEvent.
    """

    __slots__ = ("attempt", "attributes", "data")

    def __init__(
        self,
        type: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        time: datetime.datetime | str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        key: str | None = None,
        **extensions: str | int | bool,
    ):
        if type not in _checked_types:
            check_type(type)
        attributes: dict[str, Any] = {
            "specversion": "1.0",
            "id": new_id() if id is None else _checked("id", id),
            "source": default_source() if source is None else _checked("source", source),
            "type": type,
            "time": now() if time is None else _checked_time(time),
        }
        if data is not None or datacontenttype is not None:
            if datacontenttype is None:
                attributes["datacontenttype"] = BINARY if _is_binary(data) else JSON
            else:
                attributes["datacontenttype"] = _checked("datacontenttype", datacontenttype)
        if subject is not None:
            attributes["subject"] = _checked("subject", subject)
        if dataschema is not None:
            attributes["dataschema"] = _checked("dataschema", dataschema)
        if key is not None:
            attributes[KEY] = _checked("key", key)
        if extensions:
            attributes.update(_checked_extensions(extensions))
        self.attributes = attributes
        self.data = data
        self.attempt = 1

    @property
    def id(self) -> str:
        """Unique for the source; a duplicate has the same one."""
        return self.attributes["id"]  # type: ignore[no-any-return]

    @property
    def type(self) -> str:
        """What happened: ``"upload.finished"``."""
        return self.attributes["type"]  # type: ignore[no-any-return]

    @property
    def source(self) -> str:
        """Where it happened: a URI reference."""
        return self.attributes["source"]  # type: ignore[no-any-return]

    @property
    def subject(self) -> str | None:
        """What in the source it is about, or None."""
        return self.attributes.get("subject")

    @property
    def time(self) -> datetime.datetime | None:
        """When it happened. Raises InvalidEvent if another program sent no RFC 3339 time."""
        text = self.attributes.get("time")
        return None if text is None else _parse_time(text)

    @property
    def datacontenttype(self) -> str | None:
        """The media type of the data."""
        return self.attributes.get("datacontenttype")

    @property
    def dataschema(self) -> str | None:
        """The URI of the schema of the data, or None."""
        return self.attributes.get("dataschema")

    @property
    def key(self) -> str | None:
        """Events of the type with the same key are handled in order; None: no order."""
        return self.attributes.get(KEY)

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context in which the event was emitted, or None."""
        return self.attributes.get("traceparent")

    @property
    def extensions(self) -> dict[str, Any]:
        """The attributes that CloudEvents itself does not define."""
        return {
            name: value
            for name, value in self.attributes.items()
            if name not in _RESERVED and name not in _OPTIONAL and value is not None
        }

    def encode(self) -> bytes:
        """Return the event in JSON. Raises InvalidEvent if its data cannot be encoded."""
        data = self.data
        attributes = self.attributes
        if data is not None:
            if type(data) is not dict and _is_binary(data):
                attributes = {**attributes, "data_base64": base64.b64encode(data).decode()}
            else:
                attributes = {**attributes, "data": data}
        try:
            return json_codec.encode(attributes)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidEvent(f"the data of event {self.type!r}: {error}") from error

    def __repr__(self) -> str:
        return f"<Event {self.type} {self.id}>"


def decode(body: bytes, attempt: int = 1) -> Event:
    """Return the event of a JSON text. Raises InvalidEvent with the reason."""
    try:
        attributes = json_codec.decode(body)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"the event is not JSON: {error}") from None
    if type(attributes) is not dict:
        raise InvalidEvent(f"a CloudEvent is a JSON object, not {_json_name(attributes)}")
    get = attributes.get
    id, source, kind, key = get("id"), get("source"), get("type"), get(KEY)
    if not (
        get("specversion") == "1.0"
        and (id and source and kind)
        and (type(id) is str and type(source) is str and type(kind) is str)
        and (key is None or (key and type(key) is str))
    ):
        raise InvalidEvent(_attribute_problem(attributes))
    data = attributes.pop("data", None)
    if "data_base64" in attributes:
        data = _decode_binary(attributes, data)
    event = Event.__new__(Event)
    event.attributes = attributes
    event.data = data
    event.attempt = attempt
    return event


def _attribute_problem(attributes: dict[str, Any]) -> str:
    version = attributes.get("specversion")
    if version != "1.0":
        return f"the event has specversion {version!r}; noria knows '1.0'"
    name = next(
        (
            name
            for name in _REQUIRED
            if not (value := attributes.get(name)) or type(value) is not str
        ),
        KEY,
    )
    return f"the event's attribute {name!r} must be a string, not {attributes.get(name)!r}"


def _decode_binary(attributes: dict[str, Any], data: Any) -> Any:
    encoded = attributes.pop("data_base64")
    if encoded is None:
        return data
    if data is not None:
        raise InvalidEvent("the event has both 'data' and 'data_base64'")
    try:
        binary = base64.b64decode(encoded, validate=True)
    except (ValueError, TypeError, binascii.Error) as error:
        raise InvalidEvent(f"the event's 'data_base64': {error}") from None
    if is_json(attributes.get("datacontenttype")):
        try:
            return json_codec.decode(binary)
        except (ValueError, RecursionError) as error:
            raise InvalidEvent(f"the event's data is not JSON: {error}") from None
    return binary


def is_json(content_type: object) -> bool:
    """Whether the media type is JSON's, as application/json or application/geo+json."""
    if not isinstance(content_type, str):
        return False
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or media_type.endswith("+json")


def check_type(type: str) -> None:
    """Raise InvalidEvent if this is no type of an event."""
    if not isinstance(type, str):
        raise InvalidEvent(f"the type of an event is a str, not {type!r}")
    if not TYPE_PATTERN.fullmatch(type) or len(type) > MAX_NAME_LENGTH:
        raise InvalidEvent(
            f"{type!r} is no type of an event: up to {MAX_NAME_LENGTH} letters, digits, _ and -, "
            "in words separated by dots, as upload.finished"
        )
    if len(_checked_types) < _MAX_CHECKED_TYPES:
        _checked_types.add(type)


def check_group(group: str) -> None:
    """Raise ValueError if this is no name of a group."""
    if not GROUP_PATTERN.fullmatch(group) or len(group) > MAX_NAME_LENGTH:
        raise ValueError(
            f"{group!r} is no name of a group: up to {MAX_NAME_LENGTH} letters, digits, _ and -"
        )


def check_size(body: bytes, type: str, max_size: int) -> None:
    """Raise EventTooLarge."""
    if len(body) > max_size:
        raise EventTooLarge(
            f"the event {type!r} has {len(body):,} bytes, and the limit is {max_size:,}: store the "
            "data elsewhere, and emit where it is"
        )


_id_prefix = ""
_id_counter = itertools.count()


def _renew_ids() -> None:
    """Take another prefix: at start, and in the child of a fork."""
    global _id_prefix, _id_counter
    _id_prefix = os.urandom(10).hex()
    _id_counter = itertools.count(1)


_renew_ids()
os.register_at_fork(after_in_child=_renew_ids)


def new_id() -> str:
    """Return an id: 80 random bits of the process, and a counter."""
    return f"{_id_prefix}-{next(_id_counter):x}"


def is_own_id(id: str) -> bool:
    """Whether `new_id` made this id in this process: only other ids can repeat."""
    return id.startswith(_id_prefix)


_second = -1
_second_text = ""


def now() -> str:
    """Return the time in UTC as RFC 3339, in microseconds."""
    global _second, _second_text
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    if seconds != _second:
        _second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = seconds
    return f"{_second_text}.{nanoseconds // 1000:06d}Z"


@functools.cache
def default_source() -> str:
    """Return the source of events that name none: ``//HOST/PROGRAM``, a network-path reference."""
    program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
    return f"//{quote(socket.gethostname() or 'localhost')}/{quote(program)}"


def _is_binary(data: object) -> bool:
    return isinstance(data, bytes | bytearray | memoryview)


def _checked(name: str, value: str) -> str:
    if type(value) is not str or not value:
        raise InvalidEvent(f"{name}= must be a str that is not empty, not {value!r}")
    return value


def _checked_time(value: datetime.datetime | str) -> str:
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise InvalidEvent("time= needs a time zone: datetime.now(timezone.utc)")
        return value.isoformat().replace("+00:00", "Z")
    _parse_time(value)
    return value


def _parse_time(text: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(text)
    except (ValueError, TypeError):
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidEvent(f"time {text!r} is not RFC 3339, as 2026-01-31T12:00:00Z")
    return found


def _checked_extensions(extensions: dict[str, Any]) -> dict[str, Any]:
    for name, value in extensions.items():
        if name in _RESERVED or not _EXTENSION.fullmatch(name):
            raise InvalidEvent(
                f"extension attribute {name!r}: CloudEvents permits lower-case letters and digits"
            )
        if not isinstance(value, str | int):
            raise InvalidEvent(f"extension attribute {name!r} must be str, int or bool: {value!r}")
    return extensions


def _json_name(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
