"""A socket that is watched with add_reader and add_writer, and files that must stay untouched."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import socket
from typing import Any

from support.fuzz.harness import Violations, some_bytes


class Flow:
    """Bytes in one direction: those sent, and how many of them have been received."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.received = 0

    def send(self, sock: socket.socket, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            self.sent += data[: sock.send(data)]

    def receive(self, sock: socket.socket, size: int) -> bool:
        """Receive, and return whether the bytes are those that were sent."""
        try:
            data = sock.recv(size)
        except BlockingIOError:
            return True
        expected = self.sent[self.received : self.received + len(data)]
        self.received += len(data)
        return data == expected


class Watched:
    """A socket pair whose near end the loop watches, by number or by object."""

    def __init__(self, rng: random.Random, violations: Violations) -> None:
        self.loop = asyncio.get_running_loop()
        self.rng, self.violations = rng, violations
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.number = self.near.fileno()
        self.name: Any = rng.choice((self.near, self.number))
        self.incoming, self.outgoing = Flow(), Flow()
        # The registration that is in force for each direction; None if there is none.
        self.reader: object | None = None
        self.writer: object | None = None

    @property
    def closed(self) -> bool:
        return self.near.fileno() < 0

    def either_name(self) -> Any:
        """Return the socket or its number; once closed, the one that was registered."""
        return self.name if self.closed else self.rng.choice((self.near, self.number))

    def watch_reader(self) -> None:
        self.reader = registration = object()
        self.loop.add_reader(self.name, self.readable, registration)

    def watch_writer(self) -> None:
        self.writer = registration = object()
        self.loop.add_writer(self.name, self.writable, registration)

    def unwatch_reader(self) -> None:
        removed = self.loop.remove_reader(self.either_name())
        self.check(removed is (self.reader is not None), f"remove_reader returned {removed}")
        self.reader = None

    def unwatch_writer(self) -> None:
        removed = self.loop.remove_writer(self.either_name())
        self.check(removed is (self.writer is not None), f"remove_writer returned {removed}")
        self.writer = None

    def readable(self, registration: object) -> None:
        self.check(registration is self.reader, "an unregistered reader was called")
        if not self.closed:
            right = self.incoming.receive(self.near, self.rng.choice((1, 100, 70_000)))
            self.check(right, "bytes received differ from those sent")
            if self.rng.random() < 0.1:
                self.unwatch_reader()

    def writable(self, registration: object) -> None:
        self.check(registration is self.writer, "an unregistered writer was called")
        if not self.closed:
            self.outgoing.send(self.near, some_bytes(self.rng, self.rng.choice((1, 5000))))
            if self.rng.random() < 0.3:
                self.unwatch_writer()

    def feed(self) -> None:
        """Send from the far end, and receive there."""
        self.incoming.send(self.far, some_bytes(self.rng, self.rng.choice((1, 100, 5000))))
        self.check(self.outgoing.receive(self.far, 10_000), "bytes sent have changed")

    def close(self) -> None:
        """Unwatch, then close, in the order asyncio requires."""
        if self.reader is not None or self.rng.random() < 0.3:
            self.unwatch_reader()
        if self.writer is not None or self.rng.random() < 0.3:
            self.unwatch_writer()
        self.near.close()
        self.far.close()

    def close_unannounced(self) -> None:
        """Close the near end while it may be watched."""
        self.near.close()

    def forget(self) -> None:
        """Remove the registrations of a near end that was closed while it was watched."""
        if self.reader is not None:
            self.unwatch_reader()
        if self.writer is not None:
            self.unwatch_writer()
        self.far.close()

    def check(self, condition: object, message: str) -> None:
        if not condition:
            self.violations.add(
                f"{message} (descriptor {self.number}, now {self.near.fileno()}, "
                f"sent {len(self.incoming.sent)}, received {self.incoming.received})"
            )


class Bystander:
    """A socket pair with buffered bytes that no loop uses: it must stay unchanged."""

    def __init__(self, number: int) -> None:
        """Create the pair; `number` is the descriptor it takes if that is free."""
        self.near, self.far = socket.socketpair()
        if self.far.fileno() == number:
            self.near, self.far = self.far, self.near
        elif self.near.fileno() != number:
            with self.near as first:
                moved = fcntl.fcntl(first.fileno(), fcntl.F_DUPFD_CLOEXEC, number)
            self.near = socket.socket(fileno=moved)
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.far.send(b"for nobody else")
        self.inodes = self.look()

    def look(self) -> list[int]:
        return [os.fstat(sock.fileno()).st_ino for sock in (self.near, self.far)]

    def untouched(self) -> str:
        """Return what has changed, or an empty string."""
        try:
            if self.look() != self.inodes:
                return "its descriptor belongs to another file"
            if self.near.recv(100, socket.MSG_PEEK) != b"for nobody else":
                return "its bytes have changed"
        except OSError as error:
            return f"{error!r}"
        try:
            return f"it was sent {self.far.recv(100)!r}"
        except BlockingIOError:
            return ""

    def close(self) -> None:
        for sock in (self.near, self.far):
            try:
                sock.close()
            except OSError:
                sock.detach()  # already closed elsewhere, which the check has reported
