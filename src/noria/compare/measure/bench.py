"""What every measurement needs: a server on one core, the clients on another, and the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from noria.compare.measure import cores
from noria.compare.measure.child import Child, ChildFailed, Message
from noria.compare.measure.settings import Settings

Row = dict[str, Any]
Progress = Callable[[float, str], object]

PATIENCE = 15.0
"""Seconds that a process may take for what should take none."""

FOREIGN = 0.25
DISTURBED = "other work took more than a quarter of the server's core: measure on a quiet machine"
"""Noted where the part of FOREIGN is passed; a share of the time, not of the server's."""

OVER = "not measured: the time was over"

GRACE = 2.0
"""The same when the time is over."""

CALLS = ("waits", "receives", "sends", "accepts", "controls")
EMPTY = ("empty_waits", "empty_receives", "blocked_sends", "empty_accepts")


@dataclass
class Server:
    """A running server of one model."""

    child: Child
    port: int
    bench: Bench

    def stats(self) -> Message:
        """Its processor time and counters, now: see noria.compare.measure.server."""
        return self.child.ask(self.bench.patience, ask="stats")

    def limit(self) -> str:
        """Why it refused connections, as far as it did."""
        try:
            found = self.stats()
        except ChildFailed:
            return ""
        reason = str(found["reason"]).partition(". ")[0]
        return f"{found['refused']:,} connections refused: {reason}" if found["refused"] else ""


@dataclass
class Use:
    """What the server used for each message while it was under load.

    System calls are those that the model itself counts: it waits, receives, sends, accepts, or
    changes what is watched. What the interpreter and the C library call besides is not in it; that
    is next to nothing, except for the futex calls by which the threads of ``threaded`` hand the
    interpreter's lock to one another.
    """

    user_us: float
    kernel_us: float
    syscalls: float
    empty_asks: float
    note: str = ""
    """Set if something else than the server was on its core for long."""

    @classmethod
    def between(cls, before: Message, after: Message, size: int) -> Use | None:
        """None if there was no message of `size` bytes between the two."""
        gone = {key: value - before["counters"][key] for key, value in after["counters"].items()}
        messages = gone["bytes_in"] / size
        if messages < 1:
            return None
        return cls(
            (after["user"] - before["user"]) * 1e6 / messages,
            (after["kernel"] - before["kernel"]) * 1e6 / messages,
            sum(gone[key] for key in CALLS) / messages,
            sum(gone[key] for key in EMPTY) / messages,
        )


@dataclass
class Bench:
    """The means of one comparison; as a context manager it ends every process that it started."""

    settings: Settings
    progress: Progress | None = None
    steps: int = 1
    cores: tuple[int, int] | None = field(default_factory=cores.pair)
    done: int = 0
    _clients: Child | None = None

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.until = self.began + self.settings.budget

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.dismiss()

    def step(self, label: str) -> None:
        """Something new begins. Raises ChildFailed when the time is over."""
        if self.progress is not None:
            self.progress(min(self.done / self.steps, 1.0), label)
        self.done += 1
        if self.over:
            raise ChildFailed(OVER)

    def allow(self, share: float) -> None:
        """What comes now may go on until that share of the whole time is over."""
        self.until = self.began + share * self.settings.budget

    @property
    def over(self) -> bool:
        """The time is over."""
        return time.monotonic() > self.until

    @property
    def patience(self) -> float:
        """Seconds to wait for an answer that should come at once: fewer when time runs out."""
        return min(PATIENCE, max(0.0, self.until - time.monotonic()) + GRACE)

    @contextlib.contextmanager
    def server(self, model: str, *arguments: str) -> Iterator[Server]:
        """A server in a process of its own, until the end of the block."""
        pinned = ("--cpu", str(self.cores[0])) if self.cores else ()
        with Child("noria.compare.measure.server", model, *pinned, *arguments) as child:
            yield Server(child, int(child.hear(self.patience)["port"]), self)

    def order(self, timeout: float, /, **order: Any) -> Message:
        """Has the clients do something; the answer."""
        self.begin(**order)
        return self.result(timeout)

    def begin(self, **order: Any) -> None:
        """Orders it, and does not wait."""
        if self._clients is None:
            pinned = ("--cpu", str(self.cores[1])) if self.cores else ()
            self._clients = Child("noria.compare.measure.clients", *pinned)
            self.result(self.patience)
        self._clients.tell(order)

    def result(self, timeout: float) -> Message:
        """The next answer of the clients, who do not outlive a silence."""
        assert self._clients is not None
        try:
            return self._clients.hear(timeout)
        except ChildFailed as failed:
            if not failed.kind:
                self.dismiss()
            raise

    def dismiss(self) -> None:
        """Ends the clients; the next order gets new ones."""
        if self._clients is not None:
            clients, self._clients = self._clients, None
            clients.end()

    def load(
        self, server: Server, *, connections: int, seconds: float
    ) -> tuple[Message, Use | None]:
        """Loads the server; what the clients saw, and what the server used meanwhile.

        The server's part begins a little later and ends a little sooner than the clients', so that
        no connection opens or closes in it; it is told for each message that fell in it.
        """
        options = {"size": self.settings.size, "warmup": self.settings.warmup}
        self.begin(do="load", port=server.port, connections=connections, seconds=seconds, **options)
        self.result(self.patience)
        end = time.monotonic() + 0.9 * seconds
        before, busy = server.stats(), self._busy()
        began = time.monotonic()
        time.sleep(max(0.0, end - began))
        after, busy = server.stats(), self._busy() - busy
        passed = time.monotonic() - began
        use = Use.between(before, after, self.settings.size)
        own = sum(after[key] - before[key] for key in ("user", "kernel"))
        if use is not None and busy - own > FOREIGN * passed:
            use.note = DISTURBED
        found = self.result(self.patience + seconds)
        return found, use

    def _busy(self) -> float:
        """Seconds that the server's core has been at work, 0 if that is unknown."""
        return (cores.busy(self.cores[0]) or 0.0) if self.cores else 0.0
