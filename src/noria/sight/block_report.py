"""Messages on standard error about blocked loops."""

from __future__ import annotations

import time
from typing import Any

from noria.sight.messages import warn, write
from noria.sight.places import PlaceTuple, innermost_user_place

REPEAT_INTERVAL = 10.0  # seconds between two reports of one place
MAX_FRAMES_SHOWN = 12
MAX_PLACES = 1000


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
        place = innermost_user_place(block["stack"])
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
        write("\n".join(lines))

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
        """Write that a block still lasts."""
        if (block["loop"], block["started"]) in self._shown:
            place = innermost_user_place(block["stack"])
            where = f" in {place[0]} ({place[1]}:{place[2]})" if place is not None else ""
            warn(f"still blocked, so far for {seconds(block['duration'])}{where}")

    def end(self, block: dict[str, Any]) -> None:
        """Write how long a block lasted, now that it has ended."""
        key = block["loop"], block["started"]
        if key not in self._shown:
            return
        self._shown.discard(key)
        place = innermost_user_place(block["stack"])
        where = f" at {place[1]}:{place[2]}" if place is not None else ""
        waiting = block["events_waiting"]
        events = f"; {waiting} {'event' if waiting == 1 else 'events'} waited" if waiting else ""
        warn(f"the block{where} lasted {seconds(block['duration'])}{events}")
