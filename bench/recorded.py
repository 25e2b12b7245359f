"""noria's event loop, recorded and watched: the loop "recorded-MODEL" of bench/sight.py."""

from __future__ import annotations

import noria

_watch = None


def new_event_loop(model: str = "auto") -> noria.EventLoop:
    """Create a loop as `noria run` does: with a recorder, an agent and a watchdog."""
    global _watch
    if _watch is None:
        _watch = noria.watch()
    return noria.new_event_loop(model)
