"""What all measurements share: a server on one core, clients on another, and the time budget."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from noria.compare.measure import cores
from noria.compare.measure.child import Child, ChildFailed, Message
from noria.compare.measure.settings import Settings
from noria.compare.noise import NoiseMeter

Row = dict[str, Any]
Progress = Callable[[float, str], object]

REPLY_TIMEOUT_SECONDS = 15.0
"""For replies that need no time of their own."""

OUT_OF_TIME = "not measured: out of time"

GRACE_SECONDS = 2.0
"""For replies after the deadline."""

SYSCALL_COUNTERS = ("waits", "receives", "sends", "accepts", "controls")
EMPTY_POLL_COUNTERS = ("empty_waits", "empty_receives", "blocked_sends", "empty_accepts")


@dataclass
class ServerProcess:
    """A running server of one model."""

    child: Child
    port: int
    experiment: Experiment

    @classmethod
    def listening(cls, child: Child, experiment: Experiment) -> ServerProcess:
        """Wait until the process listens."""
        return cls(child, int(child.receive(experiment.reply_timeout)["port"]), experiment)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.child.process.pid

    def stats(self) -> Message:
        """The server's current CPU time and counters: see noria.compare.measure.server."""
        return self.child.request(self.experiment.reply_timeout, command="stats")

    def refusals(self) -> str:
        """How many connections the server refused, and why; an empty string if none."""
        try:
            found = self.stats()
        except ChildFailed:
            return ""
        reason = str(found["reason"]).partition(". ")[0]
        return f"{found['refused']:,} connections refused: {reason}" if found["refused"] else ""


@dataclass
class MessageCost:
    """What one message cost the server under load: CPU time in µs, and system calls.

    `syscalls` has the calls that the model counts: wait, receive, send, accept, and changes of the
    interest list. It does not have those of the interpreter and the C library. They are few, except
    the futex(2) calls by which the threads of ``threaded`` pass on the GIL.
    """

    user_us: float
    kernel_us: float
    syscalls: float
    empty_polls: float

    @classmethod
    def between(cls, before: Message, after: Message, size: int) -> MessageCost | None:
        """The cost between two stats() of the server; None if no message arrived."""
        delta = {key: value - before["counters"][key] for key, value in after["counters"].items()}
        messages = delta["bytes_in"] / size
        if messages < 1:
            return None
        return cls(
            (after["user"] - before["user"]) * 1e6 / messages,
            (after["kernel"] - before["kernel"]) * 1e6 / messages,
            sum(delta[key] for key in SYSCALL_COUNTERS) / messages,
            sum(delta[key] for key in EMPTY_POLL_COUNTERS) / messages,
        )


@dataclass
class Experiment:
    """One comparison in progress. As a context manager, it ends every process that it started."""

    settings: Settings
    progress: Progress | None = None
    steps: int = 1
    cores: tuple[int, int] | None = field(default_factory=cores.pair)
    done: int = 0
    pairs: list[dict[str, Any] | None] = field(default_factory=list)
    """What the same server measured against itself shows: see noria.compare.noise."""
    _clients: Child | None = None

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.deadline = self.began + self.settings.budget
        self.meter = NoiseMeter(self.cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_clients()

    def step(self, label: str) -> None:
        """Report the progress; raise ChildFailed after the deadline."""
        if self.progress is not None:
            self.progress(min(self.done / self.steps, 1.0), label)
        self.done += 1
        if self.out_of_time:
            raise ChildFailed(OUT_OF_TIME)

    def set_deadline(self, share: float) -> None:
        """Set the deadline to this share of the time budget."""
        self.deadline = self.began + share * self.settings.budget

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.time_left < 0

    @property
    def time_left(self) -> float:
        """Seconds to the deadline; negative after it."""
        return self.deadline - time.monotonic()

    @property
    def reply_timeout(self) -> float:
        """Seconds to wait for an immediate reply: fewer when the deadline is near."""
        return min(REPLY_TIMEOUT_SECONDS, max(0.0, self.time_left) + GRACE_SECONDS)

    def start_server(self, model: str, *arguments: str) -> Child:
        """Start the process of a server; see ServerProcess.listening() for when it listens."""
        pinned = ("--cpu", str(self.cores[0])) if self.cores else ()
        return Child("noria.compare.measure.server", model, *pinned, *arguments)

    def request(self, timeout: float, /, **message: Any) -> Message:
        """Send a command to the clients and return their reply."""
        self.send_command(**message)
        return self.reply(timeout)

    def send_command(self, **message: Any) -> None:
        """Send a command to the clients without waiting for the reply."""
        if self._clients is None:
            pinned = ("--cpu", str(self.cores[1])) if self.cores else ()
            self._clients = Child("noria.compare.measure.clients", *pinned)
            self.reply(self.reply_timeout)
        self._clients.send(message)

    def reply(self, timeout: float) -> Message:
        """Return the clients' next reply; end the process if there is none in `timeout` seconds."""
        assert self._clients is not None
        try:
            return self._clients.receive(timeout)
        except ChildFailed as failed:
            if not failed.kind:
                self.stop_clients()
            raise

    def stop_clients(self) -> None:
        """End the process of the clients; the next command starts a new one."""
        if self._clients is not None:
            clients, self._clients = self._clients, None
            clients.end()

    def load(
        self, server: ServerProcess, *, connections: int, seconds: float
    ) -> tuple[Message, MessageCost | None]:
        """Load the server; return the clients' result and the server's cost per message.

        The server's cost is measured within the clients' time, so that it includes no connection
        that opens or closes.
        """
        options = {"size": self.settings.size, "warmup": self.settings.warmup}
        self.send_command(
            command="load", port=server.port, connections=connections, seconds=seconds, **options
        )
        self.reply(self.reply_timeout)
        end = time.monotonic() + 0.9 * seconds
        assert self._clients is not None
        with self.meter.watch(server.pid, self._clients.process.pid, os.getpid()):
            before = server.stats()
            time.sleep(max(0.0, end - time.monotonic()))
            after = server.stats()
        return (
            self.reply(self.reply_timeout + seconds),
            MessageCost.between(before, after, self.settings.size),
        )
