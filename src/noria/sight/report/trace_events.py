"""Events of Chrome's trace format as JSON text.

Source: "Trace Event Format", Google, 2016. Perfetto and the Firefox Profiler read it.

Events may be in any order, as viewers sort them by "ts". Only pairs of B and E, which are not used
here, must be sorted within a thread.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable
from typing import Any

TRACKS_PER_LOOP = 1000
HANDLERS, BLOCKS, COLLECTIONS, WORKERS = 1, 2, 3, 10  # tracks of a loop


class Events:
    """Makes the events of one loop. Times are given in ns, and are written relative to *zero*."""

    def __init__(self, pid: int, loop: int, zero: int) -> None:
        self.pid = pid
        self._zero = zero
        self._first_track = loop * TRACKS_PER_LOOP

    def track(self, number: int) -> int:
        """Return the thread id that stands for a track."""
        return self._first_track + number

    def identity(self, number: int) -> str:
        """Return an id that no other loop has: Perfetto accepts hexadecimal numbers only."""
        return f"0x{(self._first_track << 32) + number:x}"

    def time(self, at: int) -> str:
        """Return a time in microseconds, to the nanosecond."""
        return microseconds(max(at - self._zero, 0))

    def span(self, track: int, start: int, duration: int, rest: str) -> str:
        """Return a complete event; *rest* is what `labels` returns."""
        return (
            f'{{"ph":"X","pid":{self.pid},"tid":{self.track(track)},"ts":{self.time(start)},'
            f'"dur":{microseconds(duration)},{rest}}}'
        )

    def instant(self, track: int, at: int, rest: str) -> str:
        """Return an event without duration, of a track."""
        return (
            f'{{"ph":"i","s":"t","pid":{self.pid},"tid":{self.track(track)},'
            f'"ts":{self.time(at)},{rest}}}'
        )

    def asynchronous(
        self, number: int, start: int, duration: int, name: str, category: str, args: Any = None
    ) -> Iterable[str]:
        """Yield begin and end of something that may overlap with others of its category."""
        identity = f'"id":"{self.identity(number)}","pid":{self.pid}'
        tail = f'"tid":{self.track(HANDLERS)},{labels(name, category, args)}'
        yield f'{{"ph":"b",{identity},"ts":{self.time(start)},{tail}}}'
        yield f'{{"ph":"e",{identity},"ts":{self.time(start + duration)},{tail}}}'

    def flow(self, number: int, start: int, end: int, end_track: int, name: str) -> Iterable[str]:
        """Yield an arrow from the handler that ran at *start* to the span that begins at *end*.

        All arrows have different numbers.
        """
        shared = f'"id":"{self.identity(number)}","pid":{self.pid},{labels(name, "flow")}'
        yield f'{{"ph":"s","tid":{self.track(HANDLERS)},"ts":{self.time(start)},{shared}}}'
        yield (
            f'{{"ph":"f","bp":"e","tid":{self.track(end_track)},"ts":{self.time(end)},{shared}}}'
        )

    def counter(self, at: int, name: str, values: dict[str, float]) -> str:
        """Return the values that a counter has from now on."""
        return (
            f'{{"ph":"C","pid":{self.pid},"tid":{self.track(HANDLERS)},"ts":{self.time(at)},'
            f'"name":{json.dumps(name)},"args":{json.dumps(values)}}}'
        )

    def track_name(self, track: int, name: str) -> Iterable[str]:
        """Yield the metadata of a track; tracks are shown in the order of their numbers."""
        thread = self.track(track)
        yield metadata("thread_name", self.pid, thread, {"name": name})
        yield metadata("thread_sort_index", self.pid, thread, {"sort_index": thread})


def metadata(what: str, pid: int, tid: int, args: dict[str, Any]) -> str:
    """Return a metadata event."""
    return json.dumps({"ph": "M", "name": what, "pid": pid, "tid": tid, "ts": 0, "args": args})


def labels(name: str, category: str, args: Any = None) -> str:
    """Return the members of an event that say what it is."""
    text = f'"name":{json.dumps(name)},"cat":{json.dumps(category)}'
    return f'{text},"args":{json.dumps(args)}' if args else text


def microseconds(nanoseconds: int) -> str:
    """Return nanoseconds as microseconds with three digits after the point."""
    return f"{nanoseconds // 1000}.{nanoseconds % 1000:03}"


class Rows:
    """Assigns spans to as few rows as possible, so that those of a row do not overlap."""

    def __init__(self) -> None:
        self.count = 0
        self._free: list[int] = []
        self._ends: list[tuple[int, int]] = []

    def place(self, start: int, end: int) -> int:
        """Return the row of a span; spans must come sorted by start."""
        while self._ends and self._ends[0][0] <= start:
            heapq.heappush(self._free, heapq.heappop(self._ends)[1])
        if self._free:
            row = heapq.heappop(self._free)
        else:
            row = self.count
            self.count += 1
        heapq.heappush(self._ends, (end, row))
        return row
