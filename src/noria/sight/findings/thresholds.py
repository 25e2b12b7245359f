"""From where on something is a finding, and how to set that."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace

VARIABLE = "NORIA_THRESHOLDS"
_UNITS = {
    "": 1.0,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "%": 0.01,
    "k": 1e3,
    "ki": 2.0**10,
    "kib": 2.0**10,
    "m": 1e6,
    "mi": 2.0**20,
    "mib": 2.0**20,
}
_VALUE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ%]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The limits of findings. Durations are in seconds, shares from 0 to 1, sizes in bytes."""

    # A handler that runs longer blocks the loop; 0: the observation's max_block.
    block: float = 0.0
    # A task that runs longer without yielding, at several lines of its code.
    never_yields: float = 1.0
    # Imports may block the loop this long after it began.
    startup: float = 5.0
    # Mean time between the wake-up of a task and its step, and the share of steps of tasks that
    # wake themselves.
    starved_delay: float = 0.05
    starved_share: float = 0.5
    # Steps of tasks that wake themselves: a second, and their share of all events.
    self_wakes: float = 1000.0
    self_wake_share: float = 0.4
    # Waiting for a lock; and for a future that nothing else refers to.
    lock_wait: float = 30.0
    orphaned: float = 0.7
    # Lateness of a tenth of all timers.
    timer_lateness: float = 0.1
    # Timers a second, and the share of all events that they are or cause.
    timers: float = 1000.0
    timer_share: float = 0.5
    # Reading is paused, or data is unread, without an interruption.
    reading_paused: float = 1.0
    unread: float = 1.0
    # Bytes that were written while writing was paused.
    send_buffer: float = 2.0**20
    # Writing is paused without an interruption.
    slow_client: float = 1.0
    # Open connections that have been idle for some time, and how many of them.
    leaked: float = 20.0
    leaked_idle: float = 0.5
    # Time that jobs wait for a free worker.
    executor_wait: float = 0.5
    # The share of the loop's busy time with garbage collections, and a single one.
    gc_share: float = 0.15
    gc_pause: float = 0.25
    # Sends of a handler that has sent on the same connection before, and their mean size.
    repeated_sends: float = 2000.0
    small_send: float = 200.0

    def changed(self, changes: Iterable[str]) -> Thresholds:
        """Return thresholds with changes, each NAME=VALUE ("block=50ms", "gc-share=20%").

        A value may have a unit: us, ms, s, min, h; %; k, Ki, M, Mi. Raises ValueError with a
        message for the user.
        """
        values: dict[str, float] = {}
        for change in changes:
            name, found, value = change.partition("=")
            name = name.strip().replace("_", "-")
            if not found:
                raise ValueError(f"threshold {change!r} has no value: write NAME=VALUE")
            if name not in NAMES:
                close = difflib.get_close_matches(name, NAMES, 1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise ValueError(
                    f"unknown threshold {name!r}.{hint} Choose from: {', '.join(NAMES)}."
                )
            values[name.replace("-", "_")] = number(value)
        return replace(self, **values)

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, changes: Iterable[str] = ()
    ) -> Thresholds:
        """Return the thresholds of NORIA_THRESHOLDS (NAME=VALUE, …), then with `changes`.

        Raises ValueError with a message for the user.
        """
        text = environment.get(VARIABLE, "")
        try:
            base = cls().changed(part for part in text.split(",") if part.strip())
        except ValueError as error:
            raise ValueError(f"{VARIABLE}: {error}") from None
        return base.changed(changes)


NAMES = tuple(each.name.replace("_", "-") for each in fields(Thresholds))


def number(text: str) -> float:
    """Return the value of "50ms", "20%", "1Mi" in seconds, as a share, in bytes."""
    match = _VALUE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or not math.isfinite(value := float(match[1]) * unit):
        raise ValueError(f"{text.strip()!r} is not a value such as 50ms, 1.5s, 20% or 1Mi")
    return value
