"""What the watchdog writes on standard error about a blocked loop."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from noria.sight.places import PlaceTuple, is_user_code

REPEAT_INTERVAL = 10.0  # seconds between two reports of one place
MAX_FRAMES_SHOWN = 12
MAX_PLACES = 1000


def blocking_place(stack: list[PlaceTuple]) -> PlaceTuple | None:
    """Return the program's own innermost line of a stack, else the innermost one."""
    for place in reversed(stack):
        if is_user_code(place[1]):
            return place
    return stack[-1] if stack else None


def seconds(ns: int) -> str:
    """Return a duration for people: "120 ms", "3.42 s"."""
    return f"{ns / 1e6:.0f} ms" if ns < 1_000_000_000 else f"{ns / 1e9:.2f} s"


def format_stack(stack: list[PlaceTuple]) -> list[str]:
    """Return a stack as Python's tracebacks have it, innermost last."""
    lines = []
    begin = max(len(stack) - MAX_FRAMES_SHOWN, 0)
    for function, file, line, source in stack[begin:]:
        lines.append(f'  File "{file}", line {line}, in {function}')
        if source:
            lines.append(f"    {source}")
    return lines


class BlockReport:
    """Writes about blocks; for each place in full once, and then at most every 10 s."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._reported: dict[Any, tuple[float, int]] = {}  # place -> (when, blocks since then)
        self._shown: set[tuple[int, int]] = set()  # (loop, started) of blocks that were written

    def begin(self, block: dict[str, Any], context: dict[str, Any]) -> None:
        """Write that a loop is blocked, and its stack; once it has ended, that it was."""
        if not self.enabled:
            return
        place = blocking_place(block["stack"])
        key = place[:3] if place is not None else None
        now = time.monotonic()
        last, count = self._reported.get(key, (0.0, 0))
        if last and now - last < REPEAT_INTERVAL:
            self._reported[key] = last, count + 1
            return
        if len(self._reported) >= MAX_PLACES:
            self._reported.clear()
        self._reported[key] = now, 0
        self._shown.add((block["loop"], block["started"]))
        lines = [self._headline(block, context, count)]
        if context["many"]:
            lines.append(
                f"  this turn has run {context['handlers']} handlers, the longest for "
                f"{seconds(context['longest'])}; now it runs"
            )
        lines += format_stack(block["stack"])
        _write(lines)

    def _headline(self, block: dict[str, Any], context: dict[str, Any], count: int) -> str:
        where = f"the loop in {context['thread']}" if context["thread"] else "the loop"
        verb = "was blocked for" if block["ended"] else "is blocked, so far for"
        details = [verb + " " + seconds(block["duration"])]
        if block["task"]:
            details.append(f"by task {block['task']!r}")
        if block["gil_held"]:
            details.append("in C code that held the GIL")
        elif context["other_thread"]:
            details.append("while another thread held the GIL")
        elif 2 * block["runqueue"] > block["duration"]:
            details.append(f"waiting {seconds(block['runqueue'])} of it for a free CPU")
        if count:
            details.append(f"(and {count} times before, here)")
        return f"noria: {where} {', '.join(details)}:"

    def still(self, block: dict[str, Any]) -> None:
        """Write that a block lasts."""
        if (block["loop"], block["started"]) in self._shown:
            place = blocking_place(block["stack"])
            where = f" in {place[0]} ({place[1]}:{place[2]})" if place is not None else ""
            _write([f"noria: still blocked, so far for {seconds(block['duration'])}{where}"])

    def end(self, block: dict[str, Any]) -> None:
        """Write how long a block was in the end."""
        key = block["loop"], block["started"]
        if key not in self._shown:
            return
        self._shown.discard(key)
        place = blocking_place(block["stack"])
        where = f" at {place[1]}:{place[2]}" if place is not None else ""
        waiting = block["events_waiting"]
        events = f"; {waiting} {'event' if waiting == 1 else 'events'} waited" if waiting else ""
        _write([f"noria: the block{where} lasted {seconds(block['duration'])}{events}"])


def _write(lines: list[str]) -> None:
    """Write at once, past Python's buffer, whose lock the blocked thread may have."""
    data = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # closed, or a pipe that nobody reads
        os.write(2, data)
