"""The agent: watches the loops of this process, and serves what it knows of them.

A process has at most one; noria.sight.lifetime starts and stops it. Once it has stopped, none of
its threads, descriptors, sockets and hooks are left.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from noria._core.loop import Loop, set_loop_hook
from noria._core.recorder.ring import Recorder
from noria._version import __version__
from noria.errors import error_message
from noria.sight import record_kinds
from noria.sight.blocks_seen import BlocksSeen
from noria.sight.messages import warn
from noria.sight.server import Answer, LiveServer
from noria.sight.settings import Settings
from noria.sight.snapshot import encode_snapshot, take_snapshot
from noria.sight.watched_loop import WatchedLoop

if TYPE_CHECKING:
    from noria.sight.flight_recorder import FlightRecorder
    from noria.sight.live_observer import LiveObserver

PROTOCOL = 1
MAX_CLOSED_LOOPS = 4  # of which rings and names are kept, once recordings have read them
MAX_UNREAD_LOOPS = 16  # closed ones; a loop that begins then waits until recordings have read them
MAX_KEPT_LOOPS = 32  # closed ones, if they are not read in time; older ones are lost
READ_SECONDS = 1.0  # for which a loop that begins waits at most
TICK = 0.1  # seconds between two drains of the rings into recordings
SLOW_TICK = 1.0
SNAPSHOT_INTERVAL = 0.5  # seconds; longer if a snapshot costs more than SNAPSHOT_SHARE of the time
SNAPSHOT_SHARE = 0.01
MIN_SNAPSHOT_AGE = 100_000_000  # ns; younger ones are returned again
SYNC_SECONDS = 5.0


class BlockWatcher(Protocol):
    """The watchdog, as far as the agent and its users need it."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def abandon(self) -> None: ...
    def loops_changed(self) -> None: ...
    def sync(self) -> None: ...
    def update_blocks(self) -> None: ...
    def peek(self) -> None: ...


class Agent:
    """Watches all loops of the process. Its methods may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loops: list[WatchedLoop] = []
        self.blocks = BlocksSeen()
        self.pid = os.getpid()
        self.started = time.monotonic_ns()
        self.next_id = 0
        self.watchdog: BlockWatcher | None = None
        # Answers a request of the live protocol.
        self.answer: Callable[[dict[str, Any]], Answer] = _refuse
        self.server: LiveServer | None = None
        # Functions that return sockets which are no part of the program: snapshots skip them.
        self.private_fds: list[Callable[[], set[int]]] = []
        # Called by the agent's thread every TICK seconds, or every SLOW_TICK seconds. The lists are
        # replaced, not changed: the thread may be iterating over one.
        self.tickers: list[Callable[[], object]] = []
        self.slow_tickers: list[Callable[[], object]] = []
        # Called in the child of a fork, which leaves this agent.
        self.on_abandon: list[Callable[[], object]] = []
        self.flight_recorder: FlightRecorder | None = None
        # Called by the watchdog's thread with each block that begins.
        self.on_block: list[Callable[[dict[str, Any]], object]] = []
        # Called by the agent's thread with closed loops, before their rings are freed.
        self.before_release: list[Callable[[list[WatchedLoop]], object]] = []
        self.loops_lost = 0  # not watched, or freed before they were read
        self._all_read = threading.Event()  # set unless the thread has to read closed loops
        self._all_read.set()
        self._reads_late = False  # it has not done so within READ_SECONDS
        self._lock = threading.RLock()
        self._snapshot_lock = threading.Lock()
        self._by_loop: dict[int, WatchedLoop] = {}
        self._stopping = False
        self._calls: list[Callable[[], object]] = []
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._woken)
        self._snapshot: dict[str, Any] = {"time": 0, "loops": [], "cost": 0}
        self._former_snapshot = self._snapshot
        self._encoded: tuple[int, bytes] = (0, b"")
        self._thread = threading.Thread(target=self._run, name="noria-agent", daemon=True)

    # Life.

    def start(self) -> None:
        """Watch all loops that run, and those that will. Raises OSError."""
        try:
            if self.settings.socket:
                self.server = LiveServer(self._selector, self.answer)
                self.private_fds.append(self.server.descriptors)
        except BaseException:
            self._close_descriptors()
            raise
        set_loop_hook(self.loop_runs)
        try:
            for loop in running_loops():
                with contextlib.suppress(RuntimeError):  # it has just been closed by its thread
                    watched = self._watch(loop)
                    if watched is not None:
                        watched.note_running_thread()
        except BaseException:
            set_loop_hook(None)
            raise
        self._thread.start()
        if self.watchdog is not None:
            self.watchdog.start()

    def stop(self) -> None:
        """Stop watching. Nothing of the agent is left behind."""
        set_loop_hook(None)
        self._stopping = True
        self.wake()
        if self.watchdog is not None:
            self.watchdog.stop()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self._all_read.set()  # a loop that begins must not wait
        with self._lock:
            for watched in self.loops:
                watched.release()
            self.loops = []
            self._by_loop = {}
        self._close_descriptors()

    def abandon(self) -> None:
        """In the child of a fork: leave what belongs to the parent, close the copies."""
        set_loop_hook(None)
        for function in self.on_abandon:
            function()
        if self.watchdog is not None:
            self.watchdog.abandon()
        for watched in self.loops:
            watched.release()
        self._close_descriptors(remove=False)

    def _close_descriptors(self, *, remove: bool = True) -> None:
        # First: the child of a fork must not change the set of its parent's epoll descriptor.
        self._selector.close()
        if self.server is not None:
            self.server.close(remove=remove)
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

    # Loops.

    def loop_runs(self, loop: Any) -> None:
        """Called by a loop, in its thread, when a run of it begins."""
        watched = self._by_loop.get(id(loop))
        is_new = watched is None or watched.loop is not loop
        if is_new:
            try:
                watched = self._watch(loop)
            except (OSError, MemoryError) as error:
                # No descriptor or no memory: the program runs all the same.
                with self._lock:
                    self.loops_lost += 1
                warn(f"a loop is not watched: {error_message(error)}")
                return
        if watched is not None:
            watched.note_thread(threading.current_thread())
        if is_new and self.flight_recorder is not None:
            # Now: the program may crash before the next tick.
            self._guard(self.flight_recorder.tick)

    def _watch(self, loop: Any) -> WatchedLoop | None:
        with self._lock:
            if self._stopping or loop.recorder is not None:
                return self._by_loop.get(id(loop))
            recorder = Recorder(self.settings.capacity, str(loop.model.name))
            watched = WatchedLoop(self.next_id, loop, recorder)
            self.next_id += 1
            loop.attach_recorder(recorder)
            self.loops = [*self.loops, watched]
            self._by_loop[id(loop)] = watched
            if self.watchdog is not None:
                # With the lock: no ring may be freed while it opens them.
                self._guard(self.watchdog.loops_changed)
        self._release_closed()
        return watched

    def _closed_loops(self, kept: int) -> list[WatchedLoop]:
        """Return the closed loops but for the last *kept*, oldest first."""
        closed = [each for each in self.loops if each.loop is None]
        return closed[: max(len(closed) - kept, 0)]

    def _release_closed(self) -> None:
        """Free the rings of closed loops, except those of the last few, once they are read."""
        if not self.before_release:
            self._release(self._closed_loops(MAX_CLOSED_LOOPS))
            return
        unread = self._closed_loops(MAX_CLOSED_LOOPS)
        records = sum(min(each.recorder.head, each.recorder.capacity) for each in unread)
        few = MAX_UNREAD_LOOPS - MAX_CLOSED_LOOPS
        if len(unread) <= few and records <= MAX_CLOSED_LOOPS * self.settings.capacity:
            return
        with self._lock:
            asks = self._all_read.is_set() and not self._stopping
            if asks:
                self._all_read.clear()
                self._reads_late = False
        if asks:
            self.call(self._read_and_release)
        if not self._reads_late:
            if self._all_read.wait(READ_SECONDS):
                return
            self._reads_late = True
        # The thread is busy, with a slow disk for example: the program does not wait for it again.
        with self._lock:
            lost = self._closed_loops(MAX_KEPT_LOOPS)
            self.loops_lost += sum(not each.was_read for each in lost)
            self._release(lost)

    def _read_and_release(self) -> None:
        try:
            read = self._closed_loops(MAX_CLOSED_LOOPS)
            for function in self.before_release:
                self._guard(lambda function=function: function(read))  # type: ignore[misc]
            self._release(read)
        finally:
            self._all_read.set()

    def _release(self, closed: list[WatchedLoop]) -> None:
        with self._lock:
            self.loops = [each for each in self.loops if each not in closed]
            self._by_loop = {
                number: each for number, each in self._by_loop.items() if each not in closed
            }
            for watched in closed:
                watched.release()

    def watched(self, loop: Any) -> WatchedLoop | None:
        """Return the WatchedLoop of a loop; None if it is not watched."""
        found = self._by_loop.get(id(loop))
        return found if found is not None and found.loop is loop else None

    def loop_of_id(self, number: Any) -> WatchedLoop:
        """Return the loop with an id. Raises ValueError."""
        for watched in self.loops:
            if watched.id == number:
                return watched
        raise ValueError(f"no loop has the id {number!r}")

    # Requests: these methods are those of noria.sight.client.Client, too.

    def hello(self) -> dict[str, Any]:
        """Return the description of this process, and its loops."""
        from noria._core.recorder.reader import RingReader

        loops = []
        with self._lock:  # no thread may release one of them meanwhile
            for watched in self.loops:
                with contextlib.closing(RingReader(watched.recorder.fd)) as reader:
                    header = reader.header()
                loops.append({**watched.description(header), "closed": watched.loop is None})
        return {**self.process(), "loops_lost": self.loops_lost, "loops": loops}

    def process(self) -> dict[str, Any]:
        """Return the description of this process, without its loops."""
        return {
            "pid": self.pid,
            "command": command_line(),
            "python": sys.version.split()[0],
            "noria": __version__,
            "protocol": PROTOCOL,
            "max_block": self.settings.max_block,
        }

    def ring(self, loop: int) -> int:
        """Return a descriptor of a loop's ring, opened read-only; the caller closes it."""
        recorder = self.loop_of_id(loop).recorder
        return os.open(f"/proc/self/fd/{recorder.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def names(self, loop: int, after: int = 0) -> list[Any]:
        """Return the names of a loop's recorder from number *after* on."""
        return list(self.loop_of_id(loop).recorder.names_after(after))

    def snapshot(self, *, fresh: bool = False) -> dict[str, Any]:
        """Return a snapshot; unless *fresh*, the last one if it is young or was expensive."""
        with self._snapshot_lock:
            age = time.monotonic_ns() - self._snapshot["time"]
            if fresh or age >= max(MIN_SNAPSHOT_AGE, self._snapshot["cost"] / SNAPSHOT_SHARE):
                private: set[int] = set().union(*(function() for function in self.private_fds))
                taken = take_snapshot(self.loops, private)
                self._former_snapshot, self._snapshot = self._snapshot, taken
            return self._snapshot

    @property
    def last_snapshots(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The last snapshot and the one before, however old."""
        return self._snapshot, self._former_snapshot

    def snapshot_interval(self, more: float = 0.0) -> float:
        """Return the seconds between regular snapshots that cost *more* seconds each, too.

        Together they take at most SNAPSHOT_SHARE of the time.
        """
        cost = float(self._snapshot["cost"]) / 1e9 + more
        return max(SNAPSHOT_INTERVAL, cost / SNAPSHOT_SHARE)

    def blocks_after(self, number: int = 0) -> list[dict[str, Any]]:
        """Return the blocks that are new or have changed since change *number*."""
        return self.blocks.after(number)

    def buses(self) -> list[dict[str, Any]]:
        """Return the figures of this process's buses (noria.bus.figures)."""
        if "noria.bus.figures" not in sys.modules:
            return []
        from noria.bus.figures import figures

        return figures()

    def encoded_snapshot(self) -> bytes:
        """Return the JSON of a snapshot."""
        snapshot = self.snapshot()
        if self._encoded[0] != snapshot["time"]:
            self._encoded = snapshot["time"], encode_snapshot(snapshot)
        return self._encoded[1]

    def observer(self) -> LiveObserver:
        """Return an observer of this process, which begins with the records in the rings."""
        from noria.sight.live_observer import LiveObserver

        return LiveObserver(self)

    def sync(self) -> None:
        """Wait until the agent's thread has finished its current work, at most SYNC_SECONDS."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            done = threading.Event()
            self.call(done.set)
            done.wait(SYNC_SECONDS)

    def mark(self, name: str) -> None:
        """Record a MARK in the loop of this thread, or in all loops if none runs here."""
        import asyncio

        try:
            watched = self.watched(asyncio.get_running_loop())
        except RuntimeError:  # none runs in this thread
            watched = None
        for each in [watched] if watched is not None else self.loops:
            if not each.released:
                each.recorder.record(record_kinds.MARK, each.recorder.intern(name))

    def add_ticker(self, function: Callable[[], object], *, slow: bool = False) -> None:
        """Have the agent's thread call a function every TICK or, if *slow*, SLOW_TICK seconds."""
        if slow:
            self.slow_tickers = [*self.slow_tickers, function]
        else:
            self.tickers = [*self.tickers, function]
        self.wake()

    def remove_ticker(self, function: Callable[[], object]) -> None:
        """Undo add_ticker."""
        self.tickers = [each for each in self.tickers if each != function]
        self.slow_tickers = [each for each in self.slow_tickers if each != function]

    def add_reader(self, function: Callable[[list[WatchedLoop]], object]) -> None:
        """Have the agent's thread call a function with closed loops before it frees their rings."""
        self.before_release = [*self.before_release, function]

    def remove_reader(self, function: Callable[[list[WatchedLoop]], object]) -> None:
        """Undo add_reader."""
        self.before_release = [each for each in self.before_release if each != function]

    def blocked(self, block: dict[str, Any]) -> None:
        """Called by the watchdog when a loop is blocked."""
        for function in list(self.on_block):
            self._guard(lambda function=function: function(block))  # type: ignore[misc]

    # The thread.

    def wake(self) -> None:
        """Have the agent's thread run its calls now."""
        if self._wake_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._wake_fd, 1)

    def watch_fd(self, fd: int, function: Callable[[int], object]) -> None:
        """Have the agent's thread call a function while a descriptor is readable."""
        self.call(lambda: self._selector.register(fd, selectors.EVENT_READ, function))

    def call(self, function: Callable[[], object]) -> None:
        """Have the agent's thread call a function soon."""
        self._calls.append(function)
        self.wake()

    def _woken(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _run(self) -> None:
        next_tick = next_slow_tick = time.monotonic()
        while not self._stopping:
            timeout = None
            if self.tickers or (self.server is not None and self.server.clients):
                timeout = max(next_tick - time.monotonic(), 0)
            elif self.slow_tickers:
                timeout = max(next_slow_tick - time.monotonic(), 0)
            ready = self._selector.select(timeout)
            if self.watchdog is not None:
                self.watchdog.peek()
            for key, mask in ready:
                self._guard(lambda key=key, mask=mask: key.data(mask))  # type: ignore[misc]
            while self._calls:
                self._guard(self._calls.pop(0))
            if time.monotonic() >= next_tick:
                for ticker in self.tickers:
                    self._guard(ticker)
                if self.server is not None:
                    self.server.disconnect_stalled()
                next_tick = max(next_tick + TICK, time.monotonic())
            if time.monotonic() >= next_slow_tick:
                for ticker in self.slow_tickers:
                    self._guard(ticker)
                next_slow_tick = time.monotonic() + SLOW_TICK

    def _guard(self, function: Callable[[], object]) -> None:
        """Call a function; an exception must not end the agent's thread."""
        try:
            function()
        except Exception as error:
            warn(f"the agent failed: {error!r}")


def _refuse(request: dict[str, Any]) -> Answer:
    raise ValueError("the agent answers nothing")


def command_line() -> str:
    """Return the command of this process, as ps(1) shows it."""
    with open("/proc/self/cmdline", "rb") as file:
        return file.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


def running_loops() -> list[Any]:
    """Return the loops that run now, in any thread, but for those of a fork's parent."""
    import gc

    return [
        each
        for each in gc.get_objects()
        if issubclass(type(each), Loop) and each.running and not each.model.inherited
    ]
