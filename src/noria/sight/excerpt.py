"""An interval of a recording: `select` keeps what happened in it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from noria._core.recorder.seek import seek
from noria.sight.json_values import integer
from noria.sight.record_kinds import (
    CLOCK,
    HANDLERS,
    KIND_MASK,
    POLL,
    RUN_BEGIN,
    RUN_END,
    TURN,
    WAIT,
    WOKE,
)
from noria.sight.recording import JSON, RECORDS, Chunk, Recording
from noria.sight.ring_records import RECORD_SIZE

SECOND = 1_000_000_000  # ns
_RECORD = struct.Struct("=QQQ")
_ACTIVITIES = {RUN_BEGIN, RUN_END, TURN, WAIT, WOKE, POLL, *HANDLERS}
_MAX_TICKS = (1 << 56) - 1


def limits(recording: Recording) -> tuple[int, int]:
    """Return the times of the first and the last record of any loop, CLOCK_MONOTONIC in ns.

    (0, 0) if there are no records. Raises RecordingError.
    """
    first: list[int] = []
    last: list[int] = []
    for loop, described in recording.loops().items():
        parts = recording.records(loop)
        header = described.get("header") or {}
        if any(map(len, parts)):
            first.append(seek(header, parts, 0)[1])
            last.append(seek(header, parts, 1 << 62)[1])
    return (min(first), max(last)) if first else (0, 0)


def select(recording: Recording, begin: int, end: int) -> None:
    """Keep only the records, snapshots, blocks and errors from *begin* until *end*.

    The times are CLOCK_MONOTONIC in ns. Of the snapshots before, the last one stays if there is
    none later: it has the names of tasks and peers. A loop without records in the interval gets
    some that say what it did all the time: run a handler, or wait. Raises RecordingError.
    """
    last = min(end, _recorded_until(recording))
    added: dict[int, bytes] = {}  # records by loop
    ranges: dict[int, tuple[int, int]] = {}  # offsets of the loop's records, in bytes
    headers: dict[int, dict[str, Any]] = {}
    for loop, described in recording.loops().items():
        parts = recording.records(loop)
        header = described.get("header") or {}
        before, _, headers[loop] = seek(header, parts, begin)
        until, _, _ = seek(header, parts, end)
        ranges[loop] = before * RECORD_SIZE, until * RECORD_SIZE
        if before == until and begin < last:
            added[loop] = _activity_records(
                _last_activity(parts, before), headers[loop], begin, last
            )
    snapshots = [integer(each.get("time")) for each in recording.objects("snapshot")]
    earliest = max((time for time in snapshots if time <= begin), default=begin)
    if any(begin < time < end for time in snapshots):
        earliest = begin
    chunks = _selected(recording, ranges, headers, added, earliest, begin, end)
    recording.replace_chunks(list(chunks))


def _recorded_until(recording: Recording) -> int:
    """Return the time of the last record, the last snapshot or the end."""
    times = (integer(each.get("time")) for each in recording.objects("snapshot", "end"))
    return max(limits(recording)[1], *times, 0)


def _last_activity(parts: Sequence[memoryview], count: int) -> tuple[int, int, int]:
    """Return (kind, a, b) of the last of *count* records that says what the loop does.

    RUN_END if there is none.
    """
    left = count * RECORD_SIZE
    before = []
    for part in parts:
        before.append(part[:left])
        left -= len(before[-1])
    for part in reversed(before):
        for offset in range(len(part) - RECORD_SIZE, -1, -RECORD_SIZE):
            stamp, a, b = _RECORD.unpack_from(part, offset)
            if stamp & KIND_MASK in _ACTIVITIES:
                return stamp & KIND_MASK, a, b
    return RUN_END, 0, 0


def _activity_records(
    activity: tuple[int, int, int], header: dict[str, Any], begin: int, end: int
) -> bytes:
    """Return the records of a loop that did the same from *begin* until *end*."""
    kind = activity[0]
    if kind == RUN_END:
        return b""
    base = header["monotonic_base_ns"]
    records = [activity] if kind == WAIT else [(TURN, int(kind in HANDLERS), 0)]
    if kind in HANDLERS:
        records.append(activity)
    records.append((CLOCK, end, header["realtime_base_ns"] + end - base))
    data = bytearray()
    for kind, a, b in records:
        time = end if kind == CLOCK else begin
        ticks = min(max(round((time - base) / header["ns_per_tick"]), 0), _MAX_TICKS)
        data += _RECORD.pack(ticks << 8 | kind, a, b)
    return bytes(data)


def _selected(
    recording: Recording,
    ranges: dict[int, tuple[int, int]],
    headers: dict[int, dict[str, Any]],
    added: dict[int, bytes],
    earliest: int,
    begin: int,
    end: int,
) -> Iterator[Chunk]:
    passed = dict.fromkeys(ranges, 0)  # bytes of each loop's records in the chunks before
    for chunk in recording.chunks():
        if chunk.kind == RECORDS and chunk.loop in ranges:
            first, last = (edge - passed[chunk.loop] for edge in ranges[chunk.loop])
            passed[chunk.loop] += len(chunk.body)
            body = chunk.body[max(first, 0) : max(last, 0)]
            if len(body):
                yield chunk._replace(body=body)
        elif chunk.kind == JSON:
            value = recording.decode(chunk)
            what = value["what"]
            # Of a damaged file, they may be of any type.
            loop, number = integer(value.get("loop")), integer(value.get("id"))
            if what == "loop" and number in headers:
                value["header"] = headers[number]
                yield chunk._replace(body=memoryview(json.dumps(value).encode()))
                if records := added.pop(number, b""):
                    yield chunk._replace(kind=RECORDS, loop=number, body=memoryview(records))
            elif what == "snapshot":
                if earliest <= integer(value.get("time")) <= end:
                    yield chunk
            elif what == "block":
                started = integer(value.get("started"))
                if started < end and started + integer(value.get("duration")) > begin:
                    yield chunk
            elif what == "error":
                if not value.get("last") or begin <= integer(value["last"]) <= end:
                    yield chunk
            elif what == "end":
                value["time"] = min(integer(value.get("time")), end)
                yield chunk._replace(body=memoryview(json.dumps(value).encode()))
            elif what == "dropped" and loop in ranges:
                if ranges[loop][0] < passed[loop] < ranges[loop][1]:
                    yield chunk
            else:
                yield chunk
        else:
            yield chunk
