"""Damaged recordings give figures or a RecordingError, whatever is wrong with them."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from tests.support.recordings import HEADER, KINDS, synthetic_recording

from noria._core.recorder.analysis import Analysis
from noria._core.recorder.timeline import Timeline
from noria.errors import RecordingError
from noria.sight.recording import JSON, MAGIC, RECORDS, Recording, observe_recording


def open_everything(path: Path) -> bool:
    """Read a recording as the report does; return whether it is accepted."""
    try:
        observe_recording(path)
        with Recording.open(path) as recording:
            for number, loop in recording.loops().items():
                timeline = Timeline(loop["header"], recording.records(number))
                timeline.lanes(buckets=20, longest=10, tasks=5, connections=5, spans=10)
    except RecordingError as error:
        if "damaged" not in str(error):
            raise  # an error says where
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "x.noria"
    synthetic_recording(path)
    whole = path.read_bytes()
    generator = random.Random(seed)
    accepted = 0
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(generator.randrange(1, 30)):
            damaged[generator.randrange(len(MAGIC), len(whole))] = generator.randrange(256)
        path.write_bytes(damaged)
        accepted += open_everything(path)
    assert 0 < accepted < 40


@pytest.mark.parametrize("seed", range(4))
def test_records_that_make_no_sense(seed: int) -> None:
    generator = random.Random(seed)
    kinds = list(KINDS.values())
    few = [0, 1, 2, 7, 0x9000, 1 << 48 | 0x9000, 3 << 48 | 7]
    for _ in range(10):
        ticks = 0
        records = bytearray()
        for _ in range(1000):
            ticks += generator.choice((0, 1, 1000, 10**9))
            stamp = ticks << 8 | generator.choice(kinds)
            words = [
                generator.choice(few) if generator.random() < 0.8 else generator.getrandbits(64)
                for _ in range(2)
            ]
            records += struct.pack("=QQQ", stamp, *words)
        analysis = Analysis(HEADER, max_tasks=16, max_connections=16, max_samples=16)
        analysis.feed(records)
        figures = analysis.figures()
        assert figures["busy"] + figures["waiting"] <= figures["end"] - figures["begin"]
        assert len(analysis.tasks()) <= 16
        assert len(analysis.connections()) <= 16
        assert len(analysis.samples()) <= 17
        timeline = Timeline(HEADER, [records])
        timeline.lanes(buckets=20, longest=10, tasks=5, connections=5, spans=10)


def test_random_bytes() -> None:
    generator = random.Random(1)
    for _ in range(20):
        records = generator.randbytes(24 * 500)
        analysis = Analysis(HEADER, max_tasks=16, max_connections=16, max_samples=16)
        analysis.feed(records)
        analysis.figures()
        analysis.samples()
        Timeline(HEADER, [records]).lanes(buckets=20)


CHUNK = struct.Struct("=IIQ")


def chunk(kind: int, loop: int, body: bytes) -> bytes:
    return CHUNK.pack(kind, loop, len(body)) + body


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (chunk(RECORDS, 0, b"x" * 25), "not a multiple of 24"),
        (chunk(RECORDS, 0, b"x" * 24), "loop 0 is not known"),
        (chunk(0, 0, b""), "a chunk of type 0"),
        (chunk(RECORDS, 1 << 31, b""), "for loop 2147483648"),
        (chunk(JSON, 0, b"{"), "the text is not JSON"),
        (chunk(JSON, 0, b"\xff"), "the text is not JSON"),
        (chunk(JSON, 0, b"[]"), 'not an object with a key "what"'),
        (chunk(JSON, 0, b'{"what":"loop"}'), "without an id"),
        (chunk(JSON, 0, b'{"what":"loop","id":1}'), "no header"),
        (chunk(JSON, 0, b'{"what":"loop","id":1,"header":{}}'), "header is incomplete"),
        (chunk(JSON, 0, b'{"what":"names","loop":[]}'), "is not known"),
        (chunk(JSON, 0, b'{"what":"block","loop":3}'), "loop 3 is not known"),
        (chunk(JSON, 0, b"[" * 100_000), "the text is not JSON"),
    ],
)
def test_errors_say_what_is_wrong_and_where(tmp_path: Path, chunks: bytes, message: str) -> None:
    path = tmp_path / "x.noria"
    path.write_bytes(MAGIC + chunks)
    with pytest.raises(RecordingError, match="damaged at byte .*" + message):
        observe_recording(path)


def test_what_is_not_known_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    path.write_bytes(MAGIC + chunk(77, 0, b"later") + chunk(JSON, 0, b'{"what":"weather"}'))
    assert observe_recording(path).loops == []


def test_values_of_another_type_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x.noria"
    synthetic_recording(path)
    with path.open("ab") as file:
        for text in (
            b'{"what":"process","noria":7,"max_block":{}}',
            b'{"what":"snapshot","time":"now","loops":[7,{"id":0,"tasks":[1,{"id":[]}],'
            b'"connections":[{"fd":"x"},{"fd":1e400,"unread":[]}],"errors":{},"executor":[],'
            b'"timers":3,"tasks_alive":"many","running":1}]}',
            b'{"what":"block","loop":0,"started":null,"stack":[3,["f"],[]],"samples":[1,[2,3]]}',
            b'{"what":"error","loop":0,"type":3,"place":{}}',
            b'{"what":"dropped","loop":0,"count":"x"}',
        ):
            file.write(chunk(JSON, 0, text))
    observation = observe_recording(path)
    assert observation.pid == 4242
    assert observation.loops[0].steps
