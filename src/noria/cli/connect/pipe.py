"""``noria connect`` in a pipe: standard input to the server, its replies to standard output.

Two threads, one a direction, each asleep in its own system call: neither can hold up the other,
so any amount streams through without a deadlock, and only one buffer a direction is in memory.
"""

import contextlib
import math
import os
import select
import socket
import sys
import threading
import time

from noria.cli.connect.end_reason import CLOSED, UNFINISHED, End, broken
from noria.cli.connect.escape import Shower

CHUNK = 256 * 1024
LONGEST = 1e9  # ms that poll can take


def pipe(sock: socket.socket, wait: float) -> End:
    """Run until the server closes, or until *wait* seconds without data after the input's end."""
    sender = _Sender(sock)
    sender.start()
    try:
        return _receive(sock, sender, wait, _output())
    finally:
        with contextlib.suppress(OSError):  # a sender asleep in send wakes up and ends
            sock.shutdown(socket.SHUT_RDWR)


class _Sender(threading.Thread):
    """Sends standard input. ``woken`` becomes readable when it has come to an end."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(name="send", daemon=True)  # it may be asleep in a read for ever
        self._sock = sock
        self.woken, self._wake = os.pipe()
        self.sending = threading.Lock()
        self.finished = False
        self.error: OSError | None = None
        self.input_error: OSError | None = None

    def run(self) -> None:
        """Read and send until the input ends or the connection breaks."""
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while size := self._read(buffer):
            with self.sending:
                try:
                    self._sock.sendall(view[:size])
                except OSError as error:
                    self.error = error
                    break
        else:
            self.finished = True  # before the server hears of it: its answer may come at once
            with contextlib.suppress(OSError):  # the server may have gone: the receiver will tell
                self._sock.shutdown(socket.SHUT_WR)
        os.close(self._wake)

    def _read(self, buffer: bytearray) -> int:
        while True:
            try:
                return os.readv(0, [buffer])
            except BlockingIOError:  # somebody made the shared description non-blocking
                select.select([0], [], [])
            except OSError as error:
                self.input_error = error
                return 0


def _receive(sock: socket.socket, sender: _Sender, wait: float, output: "_Output") -> End:
    """Copy what the server sends until it closes or the waiting is over."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(sender.woken, select.POLLIN)
    ended = math.inf  # when to stop, on the monotonic clock; not before the input's end
    finished = False
    while True:
        left = ended - time.monotonic()
        if left < 0:
            break
        ready = {
            fd for fd, _ in poll.poll(None if math.isinf(left) else min(left * 1000 + 1, LONGEST))
        }
        if sender.woken in ready:
            poll.unregister(sender.woken)
            finished = True
            ended = time.monotonic() + wait
        if sock.fileno() in ready:
            try:
                data = sock.recv(CHUNK)
            except OSError as error:
                return broken(error)
            if not data:
                break
            output.write(data)
            if finished:
                ended = time.monotonic() + wait
    output.end()
    return _end(sock, sender)


def _end(sock: socket.socket, sender: _Sender) -> End:
    """The server closed, or had nothing more to say."""
    if sender.error is not None:
        return broken(sender.error)
    if sender.input_error is not None:
        raise sender.input_error
    if sender.finished:
        return End()
    # Is there something half sent? A send that sleeps fails now; one that is through has no error.
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    with sender.sending:
        return CLOSED if sender.error is None else UNFINISHED


class _Output:
    """Standard output, byte for byte."""

    def write(self, data: bytes) -> None:
        """Write all of *data*; BrokenPipeError when nobody reads it any more."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(1, view) :]
            except BlockingIOError:
                select.select([], [1], [])

    def end(self) -> None:
        """Nothing is kept back."""


class _Screen(_Output):
    """A terminal: text, and nothing that it would obey."""

    def __init__(self) -> None:
        self._shower = Shower()

    def write(self, data: bytes) -> None:
        """Show what *data* completes."""
        self._put(self._shower.show(data))

    def end(self) -> None:
        """Show what is left."""
        self._put(self._shower.end())

    def _put(self, text: str) -> None:
        super().write(text.encode(sys.stdout.encoding, "backslashreplace"))


def _output() -> _Output:
    return _Screen() if os.isatty(1) else _Output()
