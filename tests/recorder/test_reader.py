"""Reading a ring while it is written."""

from __future__ import annotations

import os
import struct

import pytest

from noria._core.recorder.reader import RingReader
from noria._core.recorder.ring import Recorder
from noria.errors import RecordingError


def numbers(records: bytes) -> list[int]:
    return [b for stamp, _, b in struct.iter_unpack("=QQQ", records) if stamp & 0xFF == 58]


def test_each_record_is_read_once() -> None:
    recorder = Recorder(64)
    reader = RingReader(recorder.fd)
    read: list[int] = []
    for number in range(1000):
        recorder.record(58, 0, number)
        if number % 37 == 0:
            read += numbers(reader.pull(10))
            read += numbers(reader.pull())
    read += numbers(reader.pull())
    assert read == list(range(1000))
    assert reader.pull() == b""
    assert reader.dropped == 0
    assert reader.head == recorder.head
    reader.close()
    recorder.close()


def test_overwritten_records_are_counted() -> None:
    recorder = Recorder(64)
    reader = RingReader(recorder.fd)
    for number in range(1000):
        recorder.record(58, 0, number)
    # The place of the next record is not read: it may be being written.
    assert numbers(reader.pull()) == list(range(937, 1000))
    assert reader.dropped == 937
    reader.rewind()
    assert len(numbers(reader.pull())) == 63
    reader.rewind()
    reader.skip()
    assert reader.pull() == b""
    assert reader.dropped == 937
    late = RingReader(recorder.fd)
    recorder.close()
    assert len(numbers(late.pull())) == 63  # the memory outlives its owner
    assert late.dropped == 0
    late.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.pull()


def test_the_header_says_what_the_ring_is() -> None:
    recorder = Recorder(100, "epoll")
    reader = RingReader(recorder.fd)
    header = reader.header()
    assert (header["capacity"], header["model"], header["pid"]) == (128, "epoll", os.getpid())
    assert header["monotonic_base_ns"] <= recorder.now()
    reader.close()
    recorder.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (b"", "too small"),
        (bytes(8192), "not a recorder's"),
        (b"NORIAREC" + struct.pack("=IIQ", 99, 24, 64) + bytes(8000), "version 99"),
        (b"NORIAREC" + struct.pack("=IIQ", 1, 24, 63) + bytes(8000), "damaged"),
        (b"NORIAREC" + struct.pack("=IIQ", 1, 24, 1 << 40) + bytes(8000), "damaged"),
    ],
)
def test_other_memory_is_refused(change: bytes, message: str) -> None:
    fd = os.memfd_create("other", os.MFD_CLOEXEC)
    try:
        os.write(fd, change)
        with pytest.raises(RecordingError, match=message):
            RingReader(fd)
    finally:
        os.close(fd)
