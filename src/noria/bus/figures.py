"""What the buses of this process have done, for metrics; read from any thread."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from noria.bus.contract import Lag
from noria.bus.stats import HandlerStats, PublishStats
from noria.errors import BusError

log = logging.getLogger("noria.bus")

# Seconds between two questions to the broker about its lag.
LAG_INTERVAL = 5.0
# Rows of the lag that are kept: types and groups may be many.
MAX_LAG_ROWS = 500

_Key = tuple[str, str | None]


class BusFigures:
    """Of one bus. It does not keep the bus alive, and outlives it.

    `read_lag` is called in the loop of the bus while it runs. `owner` is the bus.
    """

    def __init__(self, owner: object, broker: str, published: PublishStats) -> None:
        self.owner: Callable[[], object | None] = weakref.ref(owner)
        self.broker = broker
        self.published = published
        self.handlers: list[tuple[_Key, HandlerStats]] = []
        self.lag: list[Lag] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read_lag: Callable[[], Coroutine[Any, Any, list[Lag]]] | None = None
        self._asked = 0.0
        self._task: asyncio.Task[None] | None = None
        with _lock:
            _fold()
            _known.append(self)

    def add_handler(self, type: str, group: str | None, stats: HandlerStats) -> None:
        """Add a handler, whose counts stay when it is removed from the bus."""
        self.handlers.append(((type, group), stats))

    def start(self, read_lag: Callable[[], Coroutine[Any, Any, list[Lag]]]) -> None:
        """Have the lag read when it is asked for; called when the bus starts."""
        self._loop = asyncio.get_running_loop()
        self._read_lag = read_lag

    async def stop(self) -> None:
        """Read the lag no more; called when the bus drains."""
        self._loop = self._read_lag = self.lag = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def forget(self) -> None:
        """Set all counts to 0, in the child of a fork."""
        self._loop = self._read_lag = self._task = self.lag = None
        self.published.reset()
        for _, stats in self.handlers:
            stats.reset()

    def ask_lag(self) -> None:
        """Have the lag read, unless it was a moment ago. From any thread; `lag` has it later."""
        loop, now = self._loop, time.monotonic()
        if loop is not None and now - self._asked >= LAG_INTERVAL:
            self._asked = now
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._start_reading)

    def _start_reading(self) -> None:
        if self._read_lag is not None and self._task is None:
            reading = self._read(self._read_lag)
            self._task = asyncio.get_running_loop().create_task(reading, name="noria bus lag")

    async def _read(self, read_lag: Callable[[], Coroutine[Any, Any, list[Lag]]]) -> None:
        try:
            self.lag = (await read_lag())[:MAX_LAG_ROWS]
        except BusError:
            self.lag = None
        except Exception:
            self.lag = None
            log.exception("reading the lag failed")
        self._task = None


class _Sums:
    """Of all buses of this process on one broker."""

    def __init__(self) -> None:
        self.published = PublishStats()
        self.handlers: dict[_Key, HandlerStats] = {}
        self.lag: list[Lag] | None = None

    def add(self, published: PublishStats, handlers: Iterable[tuple[_Key, HandlerStats]]) -> None:
        self.published.add(published)
        for key, stats in handlers:
            self.handlers.setdefault(key, HandlerStats()).add(stats)

    def as_dict(self, broker: str) -> dict[str, Any]:
        rows = self.lag
        return {
            "broker": broker,
            "published": self.published.as_dict(),
            "handlers": [
                {"type": type, "group": group, **stats.as_dict()}
                for (type, group), stats in self.handlers.items()
            ],
            "lag": None if rows is None else [dataclasses.asdict(each) for each in rows],
        }


_lock = threading.Lock()
_known: list[BusFigures] = []
# By broker: the sums of buses that are gone.
_ended: dict[str, _Sums] = {}


def _fold() -> None:
    """Add up the figures of buses that are gone: a program may make thousands of them."""
    for each in [known for known in _known if known.owner() is None]:
        _known.remove(each)
        for _, stats in each.handlers:
            stats.in_flight = 0
        _ended.setdefault(each.broker, _Sums()).add(each.published, each.handlers)


def figures() -> list[dict[str, Any]]:
    """Return what the buses of this process have done, added up for each broker; for JSON.

    The sums never decrease. The lag is that of some seconds ago, None if it is not known. From any
    thread.
    """
    with _lock:
        _fold()
        sums: dict[str, _Sums] = {}
        for broker, ended in _ended.items():
            sums[broker] = _Sums()
            sums[broker].add(ended.published, ended.handlers.items())
        for each in _known:
            each.ask_lag()
            found = sums.setdefault(each.broker, _Sums())
            found.add(each.published, each.handlers)
            found.lag = each.lag or found.lag
    return [each.as_dict(broker) for broker, each in sums.items()]


def _after_fork_in_child() -> None:
    """Begin anew: what the parent has done is in its own figures."""
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have had it
    _ended.clear()
    for each in _known:
        each.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
