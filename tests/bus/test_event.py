"""Events are CloudEvents 1.0: as the package cloudevents reads and writes them."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from noria.bus import event as events
from noria.bus import json_codec
from noria.bus.event import Event, decode
from noria.errors import EventTooLarge, InvalidEvent

cloudevents = pytest.importorskip("cloudevents.core.v1.event")
FORMAT = pytest.importorskip("cloudevents.core.formats.json").JSONFormat()


@pytest.mark.parametrize(
    "data",
    [{"name": "a.txt", "size": 3}, [1, 2], "text", 7, True, {"deep": {"ü": [None, 0.5]}}],
)
def test_cloudevents_reads_json_data(data: Any) -> None:
    event = Event("upload.finished", data, source="/tests", key="k", subject="s", tenant="t", n=3)
    found = FORMAT.read(None, event.encode())
    assert found.get_data() == data
    assert found.get_specversion() == "1.0"
    assert found.get_type() == "upload.finished"
    assert found.get_source() == "/tests"
    assert found.get_id() == event.id
    assert found.get_datacontenttype() == "application/json"
    assert found.get_subject() == "s"
    assert found.get_extension("partitionkey") == "k"
    assert found.get_extension("tenant") == "t"
    assert found.get_extension("n") == 3
    assert found.get_time() == event.time


def test_cloudevents_reads_bytes() -> None:
    event = Event("picture.taken", bytes(range(256)), datacontenttype="image/png")
    found = FORMAT.read(None, event.encode())
    assert found.get_data() == bytes(range(256))
    assert found.get_datacontenttype() == "image/png"


@pytest.mark.parametrize("data", [{"name": "a.txt"}, ["x"], "text", b"\x00\xff", None])
def test_what_cloudevents_writes_is_read(data: Any) -> None:
    attributes = {"type": "com.example.done", "source": "https://example.com/a", "tenant": "t"}
    original = cloudevents.CloudEvent(attributes, data)
    event = decode(FORMAT.write(original), 3)
    assert (event.type, event.source) == ("com.example.done", "https://example.com/a")
    assert event.id == original.get_id()
    assert event.extensions == {"tenant": "t"}
    assert event.attempt == 3
    assert event.data == data
    assert event.time == original.get_time()


@pytest.mark.parametrize("data", [{"a": 1}, b"\x00bytes", "text", None, [], 0, "", False])
def test_an_event_survives_its_encoding(data: Any) -> None:
    event = Event("a.b", data, key="k", subject="s", dataschema="https://example.com/s", ext="e")
    found = decode(event.encode())
    assert found.attributes == event.attributes
    assert found.data == data
    assert found.key == "k"
    assert found.dataschema == "https://example.com/s"


def test_json_in_base_64_is_decoded() -> None:
    body = {**Event("a").attributes, "datacontenttype": "application/geo+json; charset=utf-8"}
    body["data_base64"] = "eyJhIjoxfQ=="
    assert decode(json.dumps(body).encode()).data == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"type": "with space"}, "'with space' is no type"),
        ({"type": ""}, "is no type"),
        ({"type": "a..b"}, "is no type"),
        ({"type": "a.*"}, "is no type"),
        ({"type": "a.b\n"}, "is no type"),
        ({"type": "x" * 129}, "up to 128"),
        ({"type": "a", "id": ""}, "id= must be a str"),
        ({"type": "a", "key": 3}, "key= must be a str"),
        ({"type": "a", "time": "yesterday"}, "RFC 3339"),
        ({"type": "a", "time": "2026-01-01T00:00:00"}, "RFC 3339"),
        ({"type": "a", "time": datetime.datetime(2026, 1, 1)}, "time zone"),
        ({"type": "a", "Tenant": "x"}, "lower-case letters"),
        ({"type": "a", "tenant": 1.5}, "must be str, int or bool"),
    ],
)
def test_invalid_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        Event(**arguments)


def test_data_that_has_no_json_is_named() -> None:
    with pytest.raises(InvalidEvent, match="data of event 'a'"):
        Event("a", {"file": object()}).encode()
    with pytest.raises(InvalidEvent, match="data of event 'a'"):
        Event("a", {"text": "\ud800"}).encode()


def changed(**changes: Any) -> bytes:
    fields = {**Event("a").attributes, **changes}
    return json.dumps({name: value for name, value in fields.items() if value != "-"}).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "an array"),
        (b"3", "a number"),
        (b"null", "a JSON object, not null"),
        (changed(specversion="0.3"), "specversion '0.3'"),
        (changed(specversion="-"), "specversion None"),
        (changed(id="-"), "'id' must be a string, not None"),
        (changed(id=7), "'id' must be a string, not 7"),
        (changed(type=""), "'type' must be a string"),
        (changed(source=None), "'source' must be a string"),
        (changed(partitionkey=5), "'partitionkey' must be a string"),
        (changed(data_base64="***"), "data_base64"),
        (changed(data_base64=5), "data_base64"),
        (changed(data_base64="eA==", data=1), "both"),
        (changed(data_base64="eA==", datacontenttype="application/json"), "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
    ids=itertools.count(),  # some bodies have the time: workers must find the same tests
)
def test_what_is_no_event_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidEvent, match=message):
        decode(body)


def test_a_time_that_is_none_is_reported_when_it_is_read() -> None:
    event = decode(changed(time="noon"))
    with pytest.raises(InvalidEvent, match="'noon' is not RFC 3339"):
        assert event.time
    assert decode(changed(time="-")).time is None


def test_ids_are_unique_across_forks() -> None:
    ids = {events.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, events.new_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found = pipe.read()
    assert found.rpartition("-")[0] != events.new_id().rpartition("-")[0]
    assert not events.is_own_id(found)
    assert events.is_own_id(events.new_id())


def test_the_time_is_now_in_utc() -> None:
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(microseconds=1)
    found = Event("a").time
    assert found is not None
    assert before <= found <= datetime.datetime.now(datetime.UTC)


def test_a_large_event_is_refused_with_its_size() -> None:
    body = Event("a", "x" * 2000).encode()
    events.check_size(body, "a", len(body))
    with pytest.raises(EventTooLarge, match=r"has 2,\d+ bytes, and the limit is 2,000"):
        events.check_size(body, "a", 2000)


@dataclass
class Point:
    x: int


def test_the_standard_library_encodes_as_msgspec_does() -> None:
    value = {
        "point": Point(1),
        "day": datetime.date(2026, 1, 2),
        "id": uuid.UUID(int=5),
        "bytes": b"\x00\x01",
        "set": {3},
        "text": "ü",
        "number": 0.1,
    }
    body = json_codec.standard_encode(value)
    assert json_codec.standard_decode(body) == json_codec.decode(json_codec.encode(value))


WITHOUT_MSGSPEC = """
import sys
sys.modules["msgspec"] = None
from noria.bus import json_codec
from noria.bus.event import Event, decode
from noria.errors import InvalidEvent
assert json_codec.encode is json_codec.standard_encode
assert decode(Event("a", {"x": [1, "ü"]}).encode()).data == {"x": [1, "ü"]}
for body in (b"", b"{", b"[NaN]", b"[" * 100_000):
    try:
        decode(body)
    except InvalidEvent:
        continue
    raise SystemExit(f"decoded {body[:10]}")
"""


def test_events_need_no_msgspec() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_MSGSPEC], check=True, timeout=60)
