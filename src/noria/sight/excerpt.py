"""An interval of a recording: `select` keeps what happened in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from noria._core.recorder.seek import seek
from noria.sight.json_values import integer
from noria.sight.recording import JSON, RECORDS, Chunk, Recording
from noria.sight.ring_records import RECORD_SIZE

SECOND = 1_000_000_000  # ns


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
    none later: it has the names of tasks and peers. Raises RecordingError.
    """
    ranges: dict[int, tuple[int, int]] = {}  # offsets of the loop's records, in bytes
    headers: dict[int, dict[str, Any]] = {}
    for loop, described in recording.loops().items():
        parts = recording.records(loop)
        header = described.get("header") or {}
        before, _, headers[loop] = seek(header, parts, begin)
        until, _, _ = seek(header, parts, end)
        ranges[loop] = before * RECORD_SIZE, until * RECORD_SIZE
    snapshots = [integer(each.get("time")) for each in recording.objects("snapshot")]
    earliest = max((time for time in snapshots if time <= begin), default=begin)
    if any(begin < time < end for time in snapshots):
        earliest = begin
    recording.replace_chunks(list(_selected(recording, ranges, headers, earliest, begin, end)))


def _selected(
    recording: Recording,
    ranges: dict[int, tuple[int, int]],
    headers: dict[int, dict[str, Any]],
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
