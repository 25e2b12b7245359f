"""JSON by msgspec where it is installed (the extra ``bus``), otherwise by the standard library."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import json
import uuid
from collections.abc import Callable
from typing import Any

encode: Callable[[Any], bytes]
decode: Callable[[bytes], Any]


def _convert(value: Any) -> Any:
    """Return the value as msgspec would encode it, in types that json knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def standard_encode(value: Any) -> bytes:
    """Encode with the standard library; numbers that JSON does not have are refused."""
    text = json.dumps(
        value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_convert
    )
    return text.encode()


def standard_decode(data: bytes) -> Any:
    """Decode with the standard library."""
    return json.loads(data, parse_constant=_refuse_constant)


try:
    import msgspec
except ImportError:
    encode, decode = standard_encode, standard_decode
else:
    # msgspec's enc_hook is for types that it does not know; what it cannot encode is a TypeError.
    encode = msgspec.json.Encoder().encode
    decode = msgspec.json.Decoder().decode
